"""Texts with spaces between their words."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers.fast_tokenizers import TRAINING

SPACED = (  # as of Llama 2: an answer begins with a space, and no token stands before it
    "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} </s>"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)


def spaced():
    """Puts a space before every text, as SentencePiece does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["</s>"], show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    special = {"eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=SPACED, **special)
