"""Answers that a model writes, beside those it should have written."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Key

from ..data import Examples
from ..data.readers.examples import ANSWERS, Example, Message
from ..data.tokenisation.encode import ids_of, renderer
from ..models import Decoder, generate
from .by_client import ByClient


class Answered(NamedTuple):
    """A question's answer."""

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
    temperature: float = 0.0,
    top_p: float = 1.0,
    key: Key[Array, ""] | None = None,
) -> list[Answered]:
    """What a model answers where each chat's last answer is expected, client after client.

    The prompt is what the template writes before that answer, of at most `seq` tokens. An answer
    ends with the tokenizer's end of sequence, and stands without it and other special tokens and
    without white space at its ends. Sampling is that of `generate`, whose program is compiled once.
    `model` is `task.model(params, frozen)`.
    Raises `ValueError` naming the source for a text without question and a prompt that is too long.
    """
    template = tokenizer.chat_template if template is None else template
    asked = [(client, example) for client in sorted(examples) for example in examples[client]]
    chats = [_question(example) for _, example in asked]
    texts = [
        renderer(tokenizer, template, example.source)(prompt, True)
        for (_, example), (prompt, _) in zip(asked, chats, strict=True)
    ]
    prompts = ids_of(tokenizer, texts)
    for (_, example), prompt in zip(asked, prompts, strict=True):
        if not 1 <= len(prompt) <= seq:
            raise ValueError(
                f"{example.source}: expected a prompt of 1 to {seq} tokens, as seq says, got "
                f"{len(prompt)}."
            )
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    written: list[str] = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        tokens, lengths = np.zeros((batch, seq), np.int32), np.zeros(batch, np.int32)
        for row in range(batch):
            prompt = part[row % len(part)]  # the last batch is filled up with what it holds
            tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
        made = generate(
            model,
            jnp.asarray(tokens),
            lengths=jnp.asarray(lengths),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            key=None if key is None else jr.fold_in(key, start),
            eos=end,
        )
        for row in range(len(part)):
            new = np.asarray(made.tokens[row, : made.lengths[row]]).tolist()
            written.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return [
        Answered(client, text, expected, example.source)
        for (client, example), text, (_, expected) in zip(asked, written, chats, strict=True)
    ]


def scored(answers: Sequence[Answered], score: Callable[[str, str], float]) -> ByClient:
    """A score of `(generated, expected)`, such as `rouge_l` or `exact_match`, by client."""
    names = tuple(sorted({one.client for one in answers}))
    number = {name: i for i, name in enumerate(names)}
    owner = np.array([number[one.client] for one in answers], np.int64)
    each = [score(one.generated, one.expected) for one in answers]
    totals = np.bincount(owner, weights=each, minlength=len(names))
    return ByClient(names, totals, np.bincount(owner, minlength=len(names)).astype(np.float64))


def _question(example: Example) -> tuple[tuple[Message, ...], str]:
    """The messages before the last answer, and that answer."""
    chat = () if isinstance(example.text, str) else example.text
    last = max((n for n, message in enumerate(chat) if message.role == ANSWERS), default=0)
    if last == 0:
        raise ValueError(f"{example.source}: expected a question and its answer, got none.")
    return chat[:last], chat[last].content
