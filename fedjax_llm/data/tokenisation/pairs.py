"""Pairs of answers to one prompt, by client, for learning from preferences."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from ...checks import check_count
from ..checks import check_seq
from ..contract import PieceRange, Rows
from ..ranges import numbers_in, numbers_of
from ..readers.prompted import Pair
from .chat import DATE
from .corpus import Corpus
from .grouped import check_fit, one_each, tokenize_grouped, with_answers


class PairBatch(NamedTuple):
    """A batch of pairs: the prompt with the chosen answer, then the prompt with the rejected one.

    Attributes:
        tokens: The input tokens, `[..., batch, 2, seq]`; 0 where there is none.
        targets: The token after each input token, `[..., batch, 2, seq]`; 0 where it is not of the
            answer.
        counted: Which targets are of the answer, its end of sequence included, booleans
            `[..., batch, 2, seq]`.
        reference: Log-probability of each answer given its prompt, by the initial model, in nats,
            `[..., batch, 2]`; None where `Pairs` has none.
        mask: Which pairs count, booleans `[..., batch]`.

    """

    tokens: Integer[np.ndarray, "*axes batch 2 seq"]
    targets: Integer[np.ndarray, "*axes batch 2 seq"]
    counted: Bool[np.ndarray, "*axes batch 2 seq"]
    reference: Float[np.ndarray, "*axes batch 2"] | None
    mask: Bool[np.ndarray, "*axes batch"]


class Pairs(NamedTuple):
    """Pairs by client; client data whose pieces, rows and targets are pairs.

    Attributes:
        corpus: Document 2 j is the prompt and chosen answer of pair j, document 2 j + 1 the prompt
            and rejected answer. Only the tokens of the answers count.
        reference: Log-probability of each document's answer by the initial model, in nats, shape
            `[documents]`; see `fedjax_llm.tasks.with_reference`. Default None.

    """

    corpus: Corpus
    reference: Float[np.ndarray, " documents"] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, sorted."""
        return self.corpus.names

    @property
    def left_out(self) -> Mapping[str, tuple[int, int]] | None:
        """How many pairs were left out, of how many; see `Corpus`."""
        return self.corpus.left_out

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Count each client's pairs."""
        return self.pieces()

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Count each client's pairs."""
        return np.diff(self._bounds())

    def most_rows(self, *, seq: int | None, pack: bool = True) -> int:
        """Count the pairs of the client that has the most."""
        return int(self.pieces().max())

    def rows(self, clients: Sequence[int], *, seq: int | None, pack: bool = True) -> Rows:
        """Give access to the pairs of some clients, whose batches are of type `PairBatch`.

        Raises:
            ValueError: For `seq` that is None or below 1, and for a prompt and answer of more than
                `seq + 1` tokens, naming their client.

        """
        seq = check_seq(seq, who="Pairs")
        check_fit(self.corpus, longest=seq + 1, who="Pairs")
        counts, pairs = numbers_of(self._bounds(), clients)

        def take(order: Int[np.ndarray, "*axes"], wanted: Bool[np.ndarray, "*axes"]) -> PairBatch:
            documents = 2 * pairs[order][..., None] + np.arange(2)
            both = np.broadcast_to(wanted[..., None], documents.shape)
            text = one_each(self.corpus, documents, both, seq=seq)
            reference = None if self.reference is None else self.reference[documents] * both
            return PairBatch(text.tokens, text.targets, text.mask, reference, wanted)

        return Rows(counts, take)

    def select(self, ranges: Sequence[PieceRange]) -> "Pairs":
        """Select pairs of some clients; see `ClientData.select`."""
        pairs = numbers_in(self._bounds(), ranges)
        documents = (2 * pairs[:, None] + np.arange(2)).reshape(-1)
        corpus = self.corpus.select([(client, 2 * a, 2 * b) for client, a, b in ranges])
        return Pairs(corpus, None if self.reference is None else self.reference[documents])

    def _bounds(self) -> Int[np.ndarray, " clients_and_end"]:
        """Where each client's pairs begin, and the end."""
        return np.concatenate([[0], np.cumsum(self.corpus.pieces() // 2)])


def tokenize_pairs(
    pairs: Mapping[str, Sequence[Pair]],
    tokenizer: Any,
    *,
    seq: int,
    template: str | None = None,
    date: str = DATE,
    long: Literal["error", "truncate", "drop"] = "error",
    prompt_tokens: int | None = None,
    vocab_size: int | None = None,
) -> Pairs:
    """Tokenise pairs: each becomes two documents of at most `seq + 1` tokens, without reference.

    Prompt and answer are rendered as a chat and tokenised as by `tokenize`, so both answers follow
    the same tokens.

    Args:
        pairs: The pairs of each client.
        tokenizer: A `PreTrainedTokenizerFast` of `transformers`.
        seq: Tokens per row, at least 1. A document has one token more, its last target.
        template: Jinja chat template, such as `INSTRUCTIONS`. Default: the tokenizer's.
        date: Date that a template's clock shows, such as "2025-01-31". Default "2024-07-26".
        long: How to handle pairs with a longer document: "error" (default), "truncate" or "drop".
            "truncate" follows TRL: it cuts off the beginning of the prompt, the same for both
            answers, and then the ends of the answers. A pair whose answers are then alike is left
            out. TRL cuts the prompt to `prompt_tokens` at once; here it keeps what fits beside the
            longer answer.
        prompt_tokens: Tokens of the prompt's end that "truncate" always keeps, from 1 to `seq`.
            Default: half of `seq`.
        vocab_size: Size of the model's vocabulary. Default: the tokenizer's.

    Returns:
        The pairs, clients sorted by name.

    Raises:
        TypeError: For anything but a mapping from client to a list of `Pair`, and for a
            `tokenizer` that is none.
        ValueError: For a bad `seq`, `long`, `prompt_tokens` or `date`, a slow tokenizer, and a
            client all of whose pairs are dropped; naming client or source, as `tokenize` does.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from fedjax_llm.data import Message, Pair, tokenize_pairs
        >>> words = ["<unk>", "</s>", "the", "cat", "sat"]
        >>> backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
        >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
        >>> template = "{% for m in messages %}{{ m.content }} {% endfor %}"
        >>> pair = Pair((Message("user", "the"),), chosen="cat", rejected="sat")
        >>> data = tokenize_pairs({"ann": [pair]}, tokenizer, seq=8, template=template)
        >>> data.corpus.tokens.tolist(), data.corpus.counted.tolist()
        ([2, 3, 2, 4], [False, True, False, True])

    """
    if prompt_tokens is not None and long != "truncate":
        raise ValueError(
            f"tokenize_pairs: prompt_tokens: expected None, as long is {long!r}, got "
            f"{prompt_tokens!r}; use long='truncate'."
        )
    if long == "truncate":
        check_count(seq, who="tokenize_pairs", name="seq")
        prompt_tokens = max(seq // 2, 1) if prompt_tokens is None else prompt_tokens
        check_count(prompt_tokens, who="tokenize_pairs", name="prompt_tokens")
        if prompt_tokens > seq:
            raise ValueError(
                f"tokenize_pairs: prompt_tokens: expected at most seq={seq}, got {prompt_tokens}."
            )
    corpus, _ = tokenize_grouped(
        "tokenize_pairs",
        pairs,
        lambda pair: with_answers(pair, (pair.chosen, pair.rejected)),
        tokenizer,
        kind=Pair,
        name="pairs",
        seq=seq,
        template=template,
        date=date,
        long=long,
        ways=("error", "truncate", "drop"),
        prompt_tokens=prompt_tokens,
        vocab_size=vocab_size,
    )
    return Pairs(corpus)
