"""A small tokenizer that marks words by spaces, as SentencePiece does."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers.fast_tokenizers import TRAINING

SPACED = (  # like Llama 2's: an answer begins with a space, without a special token before it
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} </s>"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)


def spaced():
    """Train a tokenizer that puts a space before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["</s>"], show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    special = {"eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=SPACED, **special)
