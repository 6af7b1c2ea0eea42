"""Answers that a model generates, and their scores against the expected ones."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_function, check_kind
from jaxtyping import Array, Key

from ..checks import check_count
from ..data import Examples
from ..data.readers.examples import Example
from ..data.readers.messages import ANSWERS, Message
from ..data.tokenisation.chat import DATE
from ..data.tokenisation.encode import check_variables, ids_of, renderer, template_of
from ..models import Decoder, generate
from .by_client import ByClient


class Answered(NamedTuple):
    """A generated answer and the expected one.

    Attributes:
        client: Name of the client with the question.
        generated: The model's answer.
        expected: The last answer of the chat.
        source: Where the example came from, for messages.

    """

    client: str
    generated: str
    expected: str
    source: str


def answer(
    model: Decoder,
    examples: Examples,
    tokenizer: Any,
    *,
    seq: int,
    max_new_tokens: int,
    batch: int = 16,
    template: str | None = None,
    date: str = DATE,
    temperature: float = 0.0,
    top_p: float = 1.0,
    key: Key[Array, ""] | None = None,
) -> list[Answered]:
    """Generate the last answer of each chat, client by client.

    The prompt is the chat before its last answer, rendered with the generation prompt. A generated
    answer ends at the tokenizer's end of sequence; special tokens, and white space at both ends,
    are removed. Sampling is that of `models.generate`, which is compiled once.

    Args:
        model: The decoder, from `task.model(params, frozen)`.
        examples: The examples of each client, all of them chats.
        tokenizer: A `PreTrainedTokenizerFast`.
        seq: Most tokens of a prompt; prompts are padded to it.
        max_new_tokens: Most tokens of an answer.
        batch: Prompts per call of `generate`; default 16.
        template: Jinja chat template; default the tokenizer's.
        date: Date that a template's clock shows, such as "2025-01-31"; default "2024-07-26".
        temperature: Sampling temperature; 0 (default) takes the most likely token.
        top_p: Sample from the most likely tokens whose probabilities add up to this; default 1, all
            tokens.
        key: PRNG key; needed at a temperature above 0.

    Returns:
        One answer for each example: clients in the order of their names, examples in their order.

    Raises:
        TypeError: If `model` is not a `Decoder`.
        ValueError: Naming the source, for an example that is not a chat with a question and an
            answer, and for a prompt longer than `seq`. For `batch` below 1, and sampling arguments
            out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from tokenizers import Tokenizer, pre_tokenizers
        >>> from tokenizers.models import WordLevel
        >>> from transformers import PreTrainedTokenizerFast
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.data import Example, Message
        >>> from fedjax_llm.evaluation import answer
        >>> words = Tokenizer(WordLevel({"yes": 0, "no": 1, "why": 2}))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> template = "{% for message in messages %}{{ message.content }} {% endfor %}"
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, chat_template=template)
        >>> config = DecoderConfig(
        ...     vocab_size=3, hidden_size=8, intermediate_size=12, num_attention_heads=2
        ... )
        >>> task = language_model(config, key=jr.key(0))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # whose answer is the first token
        >>> chat = Example((Message("user", "why"), Message("assistant", "no")))
        >>> model = task.model(zeros, task.frozen)
        >>> answer(model, {"ann": [chat]}, tokenizer, seq=4, max_new_tokens=2, batch=1)
        [Answered(client='ann', generated='yes yes', expected='no', source='')]

    """
    check_kind(
        model,
        Decoder,
        who="answer",
        name="model",
        expected="a Decoder",
        remedy="task.model(params, frozen) makes one",
    )
    check_count(seq, who="answer", name="seq")
    check_count(batch, who="answer", name="batch")
    template = template_of(tokenizer, template, date=date)
    asked = [(client, example) for client in sorted(examples) for example in examples[client]]
    chats = [_question(example) for _, example in asked]
    check_variables([example for _, example in asked], template)
    texts = [
        renderer(tokenizer, template, e.source, e.tools, e.variables)(prompt, True)
        for (_, e), (prompt, _) in zip(asked, chats, strict=True)
    ]
    prompts = ids_of(tokenizer, texts)
    for (_, example), prompt in zip(asked, prompts, strict=True):
        if not 1 <= len(prompt) <= seq:
            raise ValueError(
                f"{example.source}: expected a prompt of 1 to {seq} tokens, got {len(prompt)}; "
                "give a longer seq."
            )
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    generated: list[str] = []
    for start in range(0, len(prompts), batch):
        chunk = prompts[start : start + batch]
        tokens, lengths = np.zeros((batch, seq), np.int32), np.zeros(batch, np.int32)
        for row in range(batch):
            prompt = chunk[row % len(chunk)]  # the last batch repeats its rows
            tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
        new = generate(
            model,
            jnp.asarray(tokens),
            lengths=jnp.asarray(lengths),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            key=None if key is None else jr.fold_in(key, start),
            eos=end,
        )
        for row in range(len(chunk)):
            tokens_of_row = np.asarray(new.tokens[row, : new.lengths[row]]).tolist()
            text = tokenizer.decode(tokens_of_row, skip_special_tokens=True)
            generated.append(text.strip())
    return [
        Answered(client, text, expected, example.source)
        for (client, example), text, (_, expected) in zip(asked, generated, chats, strict=True)
    ]


def scored(answers: Sequence[Answered], score: Callable[[str, str], float]) -> ByClient:
    """Score answers, client by client.

    Args:
        answers: The answers, from `answer`.
        score: `(generated, expected) -> score`, such as `rouge_l` or `exact_match`.

    Returns:
        Sum of the scores and number of answers of each client; clients in the order of their names.

    Raises:
        TypeError: If `score` cannot be called.

    Example:
        >>> from fedjax_llm.evaluation import Answered, exact_match, scored
        >>> answers = [Answered("ann", "yes", "yes", ""), Answered("ann", "no", "yes", "")]
        >>> scored(answers, exact_match).values.tolist()
        [0.5]

    """
    signature = "(generated, expected) -> score"
    check_function(score, who="scored", name="score", signature=signature)
    names = tuple(sorted({answered.client for answered in answers}))
    number = {name: i for i, name in enumerate(names)}
    owner = np.array([number[answered.client] for answered in answers], np.int64)
    each = [score(answered.generated, answered.expected) for answered in answers]
    totals = np.bincount(owner, weights=each, minlength=len(names))
    return ByClient(names, totals, np.bincount(owner, minlength=len(names)).astype(np.float64))


def _question(example: Example) -> tuple[tuple[Message, ...], str]:
    """The messages before the last answer, and that answer."""
    chat = () if isinstance(example.text, str) else example.text
    last = max((n for n, message in enumerate(chat) if message.role == ANSWERS), default=0)
    if last == 0:
        raise ValueError(
            f"{example.source}: expected a chat with a question and its answer, got none."
        )
    return chat[:last], chat[last].content
