"""Examples to a corpus of tokens, kept on disk."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..readers.examples import Examples, Records, check_no_client_is_empty
from .cache import open_corpus, save_corpus
from .corpus import Corpus
from .encode import Document, encode
from .tokens import token_dtype

FORMAT = 1
"""Raised whenever the same examples would give other tokens."""
TOGETHER = 512
"""Examples that are encoded at a time."""


def tokenize(
    examples: Examples,
    tokenizer: Any,
    *,
    seq: int,
    template: str | None = None,
    long: Literal["error", "truncate", "split"] = "error",
    vocab_size: int | None = None,
    cache: str | Path | None = None,
) -> Corpus:
    """Every example as a document of at most `seq + 1` tokens: a window and its last target.

    A text counts whole, and ends with the end-of-sequence token where there is one. A chat is
    written by the Jinja `template`, or the tokenizer's own unless given, and its answers alone
    count: from where the model would begin to write, to its end of sequence. Text that spells a
    special token becomes it.
    A longer example is refused, or its end cut off, or it is split into documents that overlap by
    one token, so that each target is in one. A part then left without a target is left out.
    `tokenizer` is a `PreTrainedTokenizerFast`; `vocab_size` is the model's, the tokenizer's unless
    given. With `cache`, a folder, tokens are kept there under a digest of all that they depend on,
    and a later call maps them into memory. Nothing is ever fetched.
    Raises `ValueError` naming client or source: for a client without examples or without a target,
    a chat that the template or the tokenizer does not keep apart, an example too long, and a token
    that the vocabulary does not have.
    """
    ways = ("error", "truncate", "split")
    check_arguments("tokenize", examples, tokenizer, seq=seq, long=long, ways=ways)
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    template = tokenizer.chat_template if template is None else template

    def made() -> Corpus:
        return _corpus(examples, tokenizer, seq, template, long, vocab_size)

    if cache is None:
        return made()
    key = _digest(examples, tokenizer, [FORMAT, seq, template, long, vocab_size])
    folder = Path(cache, key)
    if not folder.exists():
        save_corpus(made(), folder, key=key)
    return open_corpus(folder, key=key)


def check_arguments(
    who: str, examples: Records, tokenizer: Any, *, seq: int, long: str, ways: tuple[str, ...]
) -> None:
    """Raise `ValueError` for arguments that `who` cannot make tokens of."""
    if seq < 1:
        raise ValueError(f"{who}: seq must be at least 1, got {seq!r}.")
    if long not in ways:
        *some, last = ways
        raise ValueError(f"{who}: long must be {', '.join(some)} or {last}, got {long!r}.")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        kind = type(tokenizer).__name__
        raise ValueError(f"{who}: expected a PreTrainedTokenizerFast, got {kind}.")
    if not examples:
        raise ValueError(f"{who}: expected at least one client, got none.")
    check_no_client_is_empty(examples, who=who)


def _corpus(
    examples: Examples,
    tokenizer: Any,
    seq: int,
    template: str | None,
    long: str,
    vocab_size: int,
) -> Corpus:
    """The corpus of all documents, in the order of clients and of their examples."""
    names = tuple(sorted(examples))
    flat = [example for name in names for example in examples[name]]
    dtype = token_dtype(vocab_size)
    kept: list[list[Document]] = []
    for start in range(0, len(flat), TOGETHER):
        batch = flat[start : start + TOGETHER]
        for example, document in zip(
            batch, encode(batch, tokenizer, template=template), strict=True
        ):
            where = example.source or repr(example.text)[:60]
            check_tokens(document, tokenizer, vocab_size, where)
            if long == "error":
                _check_size(document, seq, where)
            parts = _parts(document, seq) if long == "split" else [_head(document, seq)]
            kept.append(
                [Document(p.tokens.astype(dtype), p.counted) for p in parts if p.counted[1:].any()]
            )
    own = iter(kept)
    by_client = [[p for _ in examples[name] for p in next(own)] for name in names]
    for name, parts in zip(names, by_client, strict=True):
        if not parts:
            raise ValueError(
                f"tokenize: client {name!r}: expected an answer or a text within {seq + 1} tokens, "
                "got none; expected a longer seq, or long='split'."
            )
    chats = any(not isinstance(example.text, str) for example in flat)
    return joined(names, by_client, vocab_size=vocab_size, chats=chats)


def joined(
    names: tuple[str, ...], by_client: list[list[Document]], *, vocab_size: int, chats: bool
) -> Corpus:
    """The corpus of each client's documents, of which in chats not every token counts."""
    documents = [p for parts in by_client for p in parts]
    dtype = token_dtype(vocab_size)
    return Corpus(
        names,
        np.concatenate([p.tokens.astype(dtype, copy=False) for p in documents]),
        np.cumsum([0, *(sum(len(p.tokens) for p in parts) for parts in by_client)]),
        vocab_size,
        np.cumsum([0, *(len(p.tokens) for p in documents)]),
        np.concatenate([p.counted for p in documents]) if chats else None,
    )


def _head(document: Document, seq: int) -> Document:
    return Document(document.tokens[: seq + 1], document.counted[: seq + 1])


def _parts(document: Document, seq: int) -> Iterator[Document]:
    for start in range(0, len(document.tokens) - 1, seq):
        cut = slice(start, start + seq + 1)
        yield Document(document.tokens[cut], document.counted[cut])


def _check_size(document: Document, seq: int, source: str) -> None:
    if (size := len(document.tokens)) > seq + 1:
        raise ValueError(
            f"{source}: expected at most {seq + 1} tokens, a window of seq={seq} and its last "
            f"target, got {size}; expected a longer seq, or long='truncate' or 'split'."
        )
    if not document.counted[1:].any():
        raise ValueError(f"{source}: expected a token to predict after the first, got {size}.")


def check_tokens(document: Document, tokenizer: Any, vocab_size: int, source: str) -> None:
    """Raise `ValueError` for a token that the vocabulary does not have, by the source."""
    highest = int(document.tokens.max(initial=0))
    if highest >= vocab_size:
        raise ValueError(
            f"{source}: expected tokens below the vocabulary's size of {vocab_size}, got {highest} "
            f"for {tokenizer.convert_ids_to_tokens(highest)!r}: the tokenizer is not this model's."
        )


def _digest(examples: Examples, tokenizer: Any, settings: list[Any]) -> str:
    """SHA-256 of everything that the tokens depend on."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for last_used in ("padding", "truncation"):
        backend.pop(last_used, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    state = hashlib.sha256()
    for part in (settings, backend, special):
        state.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    for client in sorted(examples):
        state.update(json.dumps([client, [example.text for example in examples[client]]]).encode())
    return state.hexdigest()
