"""Labelled texts by client, for classifiers."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

from ..checks import check_records, check_seq
from ..contract import PieceRange, Rows
from ..ranges import numbers_in, numbers_of
from ..readers.examples import Example, Examples
from .corpus import Corpus
from .encode import Document
from .grouped import check_fit
from .tokenize import check_arguments, check_tokens, joined


class LabelledBatch(NamedTuple):
    """A batch of labelled texts, one in each row.

    Attributes:
        tokens: The tokens, `[..., batch, seq]`; 0 where there is none.
        segments: Where there is a token, booleans `[..., batch, seq]`; the rest is padding.
        labels: Index of each text's label in `label_names`, `[..., batch]`; 0 where the text does
            not count.
        mask: Which texts count, booleans `[..., batch]`.

    """

    tokens: Integer[np.ndarray, "*axes batch seq"]
    segments: Bool[np.ndarray, "*axes batch seq"]
    labels: Int[np.ndarray, "*axes batch"]
    mask: Bool[np.ndarray, "*axes batch"]


class Labelled(NamedTuple):
    """Labelled texts by client; client data whose pieces, rows and targets are texts.

    Attributes:
        corpus: The texts, each a document with the special tokens that the tokenizer adds.
        labels: Index of each text's label in `label_names`, shape `[documents]`.
        label_names: The labels.

    """

    corpus: Corpus
    labels: Int[np.ndarray, " documents"]
    label_names: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, sorted."""
        return self.corpus.names

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Count each client's texts."""
        return self.corpus.pieces()

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Count each client's texts."""
        return self.corpus.pieces()

    def most_rows(self, *, seq: int | None, pack: bool = True) -> int:
        """Count the texts of the client that has the most."""
        return int(self.pieces().max())

    def rows(self, clients: Sequence[int], *, seq: int | None, pack: bool = True) -> Rows:
        """Give access to the texts of some clients, whose batches are of type `LabelledBatch`.

        Raises:
            ValueError: For `seq` that is None or below 1, and for a text of more than `seq` tokens,
                naming its client.

        """
        seq = check_seq(seq, who="Labelled")
        ends = self.corpus.documents
        assert ends is not None  # noqa: S101 - for the type checker
        check_fit(self.corpus, longest=seq, who="Labelled")
        counts, texts = numbers_of(self._bounds(), clients)

        def take(
            order: Int[np.ndarray, "*axes"], wanted: Bool[np.ndarray, "*axes"]
        ) -> LabelledBatch:
            text = texts[order]
            place = ends[text][..., None] + np.arange(seq)
            inside = (place < ends[text + 1][..., None]) & wanted[..., None]
            tokens = self.corpus.tokens[np.where(inside, place, 0)] * inside
            return LabelledBatch(tokens, inside, self.labels[text] * wanted, wanted)

        return Rows(counts, take)

    def select(self, ranges: Sequence[PieceRange]) -> "Labelled":
        """Select texts of some clients; see `ClientData.select`."""
        labels = self.labels[numbers_in(self._bounds(), ranges)]
        return Labelled(self.corpus.select(ranges), labels, self.label_names)

    def _bounds(self) -> Int[np.ndarray, " clients_and_end"]:
        """Where each client's texts begin, and the end."""
        return np.concatenate([[0], np.cumsum(self.corpus.pieces())])


def tokenize_labelled(
    examples: Examples,
    tokenizer: Any,
    *,
    seq: int,
    label_names: Sequence[str] | None = None,
    long: Literal["error", "truncate"] = "error",
    vocab_size: int | None = None,
) -> Labelled:
    """Tokenise labelled texts: each becomes a document of at most `seq` tokens with a label.

    A text gets the special tokens that the tokenizer adds, such as BERT's [CLS] and [SEP].

    Args:
        examples: The examples of each client: plain texts with labels.
        tokenizer: A `PreTrainedTokenizerFast` of `transformers`.
        seq: Most tokens of a text, special tokens included; at least 1.
        label_names: The labels, at least two. Default: those of the examples, sorted.
        long: How to handle longer texts: "error" (default) refuses them, "truncate" cuts them as
            the tokenizer does.
        vocab_size: Size of the model's vocabulary. Default: the tokenizer's.

    Returns:
        The labelled texts, clients sorted by name.

    Raises:
        TypeError: For anything but a mapping from client to a list of `Example`, and for a
            `tokenizer` that is none.
        ValueError: For a bad `seq` or `long`, a slow tokenizer, fewer than two labels, and a client
            without examples; naming the source, for a chat, a text without a label or with an
            unknown one, a text that is too long, and a token outside the vocabulary.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from fedjax_llm.data import Example, tokenize_labelled
        >>> words = ["<unk>", "</s>", "the", "cat", "sat"]
        >>> backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
        >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
        >>> examples = [Example("the cat sat", label="long"), Example("the", label="short")]
        >>> data = tokenize_labelled({"ann": examples}, tokenizer, seq=8)
        >>> data.label_names, data.labels.tolist(), data.corpus.tokens.tolist()
        (('long', 'short'), [0, 1], [2, 3, 4, 2])

    """
    who = "tokenize_labelled"
    check_records(examples, who=who, name="examples", kind=Example)
    check_arguments(who, examples, tokenizer, seq=seq, long=long, ways=("error", "truncate"))
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    clients = tuple(sorted(examples))
    flat = [example for client in clients for example in examples[client]]
    names = tuple(sorted({e.label for e in flat}) if label_names is None else label_names)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"{who}: label_names: expected at least two labels, each once, got {list(names)!r}."
        )
    for example in flat:
        _check(example, names)
    ids = tokenizer(
        [example.text for example in flat],
        truncation=long == "truncate",
        max_length=seq if long == "truncate" else None,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    documents = [Document(np.array(each, np.int64), np.ones(len(each), bool)) for each in ids]
    for example, document in zip(flat, documents, strict=True):
        if not 1 <= len(document.tokens) <= seq:
            raise ValueError(
                f"{example.source}: expected 1 to {seq} tokens, got {len(document.tokens)}; use a "
                "larger seq or long='truncate'."
            )
        check_tokens(document, tokenizer, vocab_size, example.source)
    each = iter(documents)
    by_client = [[next(each) for _ in examples[client]] for client in clients]
    return Labelled(
        joined(clients, by_client, vocab_size=vocab_size, chats=False, left_out={}),
        np.array([names.index(example.label) for example in flat], np.int32),
        names,
    )


def _check(example: Example, names: Sequence[str]) -> None:
    """Raise `ValueError` for a chat or an unknown label."""
    if not isinstance(example.text, str):
        raise ValueError(f"{example.source}: expected a text to classify, got a chat.")
    if example.label not in names:
        raise ValueError(
            f"{example.source}: expected one of the labels {', '.join(map(repr, names))}, got "
            f"{example.label!r}."
        )
