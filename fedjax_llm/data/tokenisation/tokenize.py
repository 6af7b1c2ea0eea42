"""Examples to a corpus of tokens, with a cache on disk."""

import hashlib
import json
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, tee
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fedjax_compression.checks import check_choice, check_kind
from jaxtyping import Int

from ...checks import check_count
from ..checks import check_records
from ..digests import adding_client
from ..readers.examples import Example, Examples, Records, check_no_client_is_empty
from .cache import growing_corpus, open_corpus
from .chat import DATE
from .corpus import Corpus
from .encode import Document, encode, template_of
from .tokens import token_dtype

FORMAT = 2
"""Version of the tokenisation, increased whenever the same examples would give other tokens."""


def tokenize(
    examples: Examples,
    tokenizer: Any,
    *,
    seq: int,
    template: str | None = None,
    date: str = DATE,
    long: Literal["error", "truncate", "split"] = "error",
    vocab_size: int | None = None,
    cache: str | Path | None = None,
) -> Corpus:
    """Make a corpus of examples: each becomes a document of at most `seq + 1` tokens.

    Every token of a plain text counts, and the text ends with the end-of-sequence token, if the
    tokenizer has one. A chat is rendered with a Jinja template, and only its answers count: from
    where the model would begin to write, to the end of sequence. Text that spells a special token
    becomes that token. Nothing is downloaded.

    Args:
        examples: The examples of each client.
        tokenizer: A `PreTrainedTokenizerFast` of `transformers`.
        seq: Tokens per window, at least 1. A document has one token more, its last target.
        template: Jinja chat template, such as `INSTRUCTIONS`. Default: the tokenizer's.
        date: Date that a template's clock shows, such as "2025-01-31". Default "2024-07-26".
        long: How to handle longer examples: "error" (default) refuses them, "truncate" cuts off
            their end, "split" splits them into documents that overlap by one token, so that each
            target is in exactly one. Documents without a target are left out; the corpus says of
            how many examples and answers nothing is left.
        vocab_size: Size of the model's vocabulary. Default: the tokenizer's.
        cache: Folder in which to keep the tokens, under a digest of everything that they depend on;
            a later call maps them into memory. Default None: not kept.

    Returns:
        A corpus with documents, clients sorted by name.

    Raises:
        TypeError: For anything but a mapping from client to a list of `Example`, and for a
            `tokenizer` that is none.
        ValueError: For a bad `seq`, `long` or `date`, a slow tokenizer; naming the client, for one
            without examples or targets; naming the source, for an example that is too long, a chat
            without a template, with one that does not separate answers from prompts or one that
            ignores a field, and a token outside the vocabulary.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from fedjax_llm.data import Example, tokenize
        >>> words = ["<unk>", "</s>", "the", "cat", "sat"]
        >>> backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
        >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
        >>> corpus = tokenize({"ann": [Example("the cat sat")]}, tokenizer, seq=8)
        >>> corpus.tokens.tolist(), corpus.targets().tolist()
        ([2, 3, 4, 1], [3])

    """
    check_records(examples, who="tokenize", name="examples", kind=Example)
    ways = ("error", "truncate", "split")
    check_arguments("tokenize", examples, tokenizer, seq=seq, long=long, ways=ways)
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    template = template_of(tokenizer, template, date=date)

    settings = (tokenizer, seq, template, long, vocab_size)
    if cache is None:
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        finish = _tokens(examples, _in_order(examples), *settings, lambda *part: parts.append(part))
        tokens, counted = map(np.concatenate, zip(*parts, strict=True))
        return finish(tokens, counted)
    cache = Path(cache)
    begun = _begun(tokenizer, [FORMAT, seq, template, long, vocab_size])
    if any(cache.glob("[!.]*")):  # an empty cache is known to lack it without reading all examples
        state = begun.copy()
        deque(_in_order(examples, state), maxlen=0)
        if (cache / (key := state.hexdigest())).exists():
            return open_corpus(cache / key, key=key)
    state = begun.copy()
    with growing_corpus(cache, token_dtype(vocab_size)) as growing:
        finish = _tokens(examples, _in_order(examples, state), *settings, growing.append)
        key = state.hexdigest()
        growing.complete(finish(*growing.arrays()), key=key)
    return open_corpus(cache / key, key=key)


def check_arguments(
    who: str,
    examples: Records,
    tokenizer: Any,
    *,
    seq: int,
    long: str,
    ways: tuple[str, ...],
    name: str = "examples",
) -> None:
    """Check the arguments that all functions with a tokenizer share.

    Raises `TypeError` for a tokenizer that is none; `ValueError` for a tokenizer without a fast
    backend, a bad `seq` or `long`, no client, and a client without records.
    """
    check_count(seq, who=who, name="seq")
    check_choice(long, ways, who=who, name="long")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        expected = "a PreTrainedTokenizerFast"
        if not hasattr(tokenizer, "convert_ids_to_tokens"):
            check_kind(tokenizer, (), who=who, name="tokenizer", expected=expected)
        raise ValueError(
            f"{who}: tokenizer: expected {expected}, got a slow {type(tokenizer).__name__}."
        )
    if not examples:
        raise ValueError(f"{who}: {name}: expected at least one client, got none.")
    check_no_client_is_empty(examples, who=who)


def _tokens(
    examples: Examples,
    in_order: Iterator[Example],
    tokenizer: Any,
    seq: int,
    template: str | None,
    long: str,
    vocab_size: int,
    append: Callable[[np.ndarray, np.ndarray], None],
) -> Callable[[np.ndarray, np.ndarray], Corpus]:
    """Hand over the tokens of each document, in the order of the clients and their examples.

    Returns a function that makes the corpus of all tokens and of which of them count. Memory: two
    batches of examples, and one number for each document.
    """
    names, dtype = tuple(sorted(examples)), token_dtype(vocab_size)
    read, flat = tee(in_order)
    encoded = encode(read, tokenizer, template=template)
    documents, offsets = array("q", [0]), [0]
    chats, answers, cut_off, empty, count = False, 0, 0, 0, 0
    for name in names:
        for example in islice(flat, len(examples[name])):
            document = next(encoded)
            where = example.source or repr(example.text)[:60]
            check_tokens(document, tokenizer, vocab_size, where)
            if long == "error":
                _check_size(document, seq, where)
            starts = _answers(document)
            answers += len(starts)
            cut_off += int((starts > seq).sum()) if long == "truncate" else 0
            parts = _parts(document, seq) if long == "split" else [_head(document, seq)]
            kept = [part for part in parts if part.counted[1:].any()]
            for part in kept:
                append(part.tokens.astype(dtype), part.counted)
                documents.append(documents[-1] + len(part.tokens))
            chats |= not isinstance(example.text, str)
            empty, count = empty + (not kept), count + 1
        if documents[-1] == offsets[-1]:
            raise ValueError(
                f"tokenize: client {name!r}: expected an answer or a text within {seq + 1} tokens, "
                "got none; use a larger seq or long='split'."
            )
        offsets.append(documents[-1])
    next(encoded, None)  # which ends the examples, and so completes their digest
    left_out = {"examples": (empty, count), "answers": (cut_off, answers)}

    def finish(tokens: np.ndarray, counted: np.ndarray) -> Corpus:
        return Corpus(
            names,
            tokens,
            np.array(offsets),
            vocab_size,
            np.array(documents),
            counted if chats else None,
            _told(left_out),
        )

    return finish


def _told(left_out: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]] | None:
    """What was left out, where something was."""
    return {what: each for what, each in left_out.items() if each[0]} or None


def _answers(document: Document) -> Int[np.ndarray, " answers"]:
    """Where each stretch of learnt tokens begins: each answer of a chat, or a text."""
    return np.flatnonzero(np.diff(document.counted, prepend=False) & document.counted)


def joined(
    names: tuple[str, ...],
    by_client: list[list[Document]],
    *,
    vocab_size: int,
    chats: bool,
    left_out: Mapping[str, tuple[int, int]],
) -> Corpus:
    """Join each client's documents to a corpus; only with `chats` may tokens not count."""
    documents = [p for parts in by_client for p in parts]
    dtype = token_dtype(vocab_size)
    return Corpus(
        names,
        np.concatenate([p.tokens.astype(dtype, copy=False) for p in documents]),
        np.cumsum([0, *(sum(len(p.tokens) for p in parts) for parts in by_client)]),
        vocab_size,
        np.cumsum([0, *(len(p.tokens) for p in documents)]),
        np.concatenate([p.counted for p in documents]) if chats else None,
        _told(left_out),
    )


def _head(document: Document, seq: int) -> Document:
    return Document(document.tokens[: seq + 1], document.counted[: seq + 1])


def _parts(document: Document, seq: int) -> Iterator[Document]:
    """Parts of at most `seq + 1` tokens that overlap by one token."""
    for start in range(0, len(document.tokens) - 1, seq):
        cut = slice(start, start + seq + 1)
        yield Document(document.tokens[cut], document.counted[cut])


def _check_size(document: Document, seq: int, source: str) -> None:
    """Raise `ValueError` for a document that is too long or has no target."""
    if (size := len(document.tokens)) > seq + 1:
        raise ValueError(
            f"{source}: expected at most {seq + 1} tokens, a window of seq={seq} and its last "
            f"target, got {size}; use a larger seq, long='truncate' or long='split'."
        )
    if not document.counted[1:].any():
        raise ValueError(f"{source}: expected a token to predict after the first, got {size}.")


def check_tokens(document: Document, tokenizer: Any, vocab_size: int, source: str) -> None:
    """Raise `ValueError` naming the source for a token outside the vocabulary."""
    highest = int(document.tokens.max(initial=0))
    if highest >= vocab_size:
        raise ValueError(
            f"{source}: expected tokens below the vocabulary's size of {vocab_size}, got {highest} "
            f"for {tokenizer.convert_ids_to_tokens(highest)!r}; use the tokenizer of the model."
        )


def _in_order(examples: Examples, state: Any = None) -> Iterator[Example]:
    """All examples, clients sorted by name; what tokens depend on is added to the hash `state`."""
    for client in sorted(examples):
        if state is None:
            yield from examples[client]
        else:
            yield from adding_client(state, client, examples[client], _text)


def _text(example: Example) -> str:
    """The JSON text of what an example's tokens depend on."""
    return json.dumps(example[:1] + example[3:])


def _begun(tokenizer: Any, settings: list[Any]) -> Any:
    """A SHA-256 of everything but the examples that the tokens depend on."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    for last_used in ("padding", "truncation"):
        backend.pop(last_used, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    state = hashlib.sha256()
    for part in (settings, backend, special):
        state.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return state
