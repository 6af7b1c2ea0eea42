"""Questions with options by client: what knowledge is measured by."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

from ..contract import PieceRange, Rows
from ..readers.prompted import Question
from .corpus import Corpus
from .grouped import check_fit, one_each, places, tokenize_grouped, whole, with_answers


class ChoiceBatch(NamedTuple):
    """Questions, each once for every option, which stands after the prompt."""

    tokens: Integer[np.ndarray, "*axes batch options seq"]
    targets: Integer[np.ndarray, "*axes batch options seq"]
    """Each token's successor; 0 where it is not of the option."""
    counted: Bool[np.ndarray, "*axes batch options seq"]
    """Which targets are of the option, its end of sequence among them."""
    there: Bool[np.ndarray, "*axes batch options"]
    """Which options there are: some questions have fewer than others."""
    answers: Int[np.ndarray, "*axes batch"]
    """Which option is right."""
    mask: Bool[np.ndarray, "*axes batch"]
    """Which questions count."""


class Choices(NamedTuple):
    """Questions by client; a `ClientData`, whose pieces, rows and targets are questions."""

    corpus: Corpus
    """Each document is a prompt and an option, whose tokens alone are counted."""
    groups: Int[np.ndarray, " questions_and_end"]
    """Question q has the documents groups[q] to groups[q + 1]."""
    answers: Int[np.ndarray, " questions"]
    """Which option is right, from 0."""

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, sorted."""
        return self.corpus.names

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Questions of each client."""
        return self.pieces()

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Questions of each client."""
        return np.diff(self._bounds())

    def most_rows(self, *, seq: int, pack: bool = True) -> int:
        """Questions of the client that has the most."""
        return int(self.pieces().max())

    def rows(self, clients: Sequence[int], *, seq: int, pack: bool = True) -> Rows:
        """Questions of some clients, in order; their batches are of type `ChoiceBatch`.

        Raises `ValueError` for an option that with its prompt has more than `seq + 1` tokens.
        """
        check_fit(self.corpus, longest=seq + 1, who="Choices")
        counts, questions = whole(self._bounds(), clients)
        options = np.arange(np.diff(self.groups).max(initial=1))

        def take(order: Int[np.ndarray, "*axes"], wanted: Bool[np.ndarray, "*axes"]) -> ChoiceBatch:
            question = questions[order]
            first = self.groups[question][..., None]
            size = self.groups[question + 1][..., None] - first
            there = (options < size) & wanted[..., None]
            text = one_each(self.corpus, first + np.minimum(options, size - 1), there, seq=seq)
            right = self.answers[question] * wanted
            return ChoiceBatch(text.tokens, text.targets, text.mask, there, right, wanted)

        return Rows(counts, take)

    def select(self, ranges: Sequence[PieceRange]) -> "Choices":
        """The same with only some questions of some clients."""
        bounds = self._bounds()
        questions = places(bounds, ranges)
        documents = [
            (
                client,
                *(
                    int(self.groups[bounds[client] + q] - self.groups[bounds[client]])
                    for q in (a, b)
                ),
            )
            for client, a, b in ranges
        ]
        return Choices(
            self.corpus.select(documents),  # type: ignore[arg-type]
            np.concatenate([[0], np.cumsum(np.diff(self.groups)[questions])]),
            self.answers[questions],
        )

    def _bounds(self) -> Int[np.ndarray, " clients_and_end"]:
        """Where clients begin, in questions."""
        documents = np.concatenate([[0], np.cumsum(self.corpus.pieces())])
        return np.searchsorted(self.groups, documents)


def tokenize_choices(
    questions: Mapping[str, Sequence[Question]],
    tokenizer: Any,
    *,
    seq: int,
    template: str | None = None,
    long: Literal["error", "drop"] = "error",
    vocab_size: int | None = None,
) -> Choices:
    """Every question as a document for each option, of at most `seq + 1` tokens.

    Prompt and option are written by the Jinja `template`, or the tokenizer's own unless given, as
    a chat whose answer is the option. A question with a longer option is refused, or dropped.
    Raises `ValueError` naming client or source, as `tokenize` does.
    """
    corpus, kept = tokenize_grouped(
        "tokenize_choices",
        questions,
        lambda question: with_answers(question.prompt, question.options, question.source),
        tokenizer,
        seq=seq,
        template=template,
        long=long,
        vocab_size=vocab_size,
    )
    sizes = [len(question.options) for question in kept]
    return Choices(
        corpus,
        np.concatenate([[0], np.cumsum(sizes)]),
        np.array([question.answer for question in kept], np.int32),
    )
