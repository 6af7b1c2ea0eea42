"""Questions with options by client, for measuring knowledge."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

from ..checks import check_seq
from ..contract import PieceRange, Rows
from ..ranges import numbers_in, numbers_of
from ..readers.prompted import Question
from .chat import DATE
from .corpus import Corpus
from .grouped import check_fit, one_each, tokenize_grouped, with_answers


class ChoiceBatch(NamedTuple):
    """A batch of questions: for each option, the prompt with this option.

    Attributes:
        tokens: The input tokens, `[..., batch, options, seq]`; 0 where there is none.
        targets: The token after each input token, `[..., batch, options, seq]`; 0 where it is not
            of the option.
        counted: Which targets are of the option, its end of sequence included, booleans
            `[..., batch, options, seq]`.
        there: Which options exist, booleans `[..., batch, options]`; a question may have fewer
            options than others.
        answers: Index of the correct option, `[..., batch]`.
        mask: Which questions count, booleans `[..., batch]`.

    """

    tokens: Integer[np.ndarray, "*axes batch options seq"]
    targets: Integer[np.ndarray, "*axes batch options seq"]
    counted: Bool[np.ndarray, "*axes batch options seq"]
    there: Bool[np.ndarray, "*axes batch options"]
    answers: Int[np.ndarray, "*axes batch"]
    mask: Bool[np.ndarray, "*axes batch"]


class Choices(NamedTuple):
    """Questions by client; client data whose pieces, rows and targets are questions.

    Attributes:
        corpus: Each document is a prompt and an option. Only the tokens of the options count.
        groups: Question q has the documents groups[q] to groups[q + 1] - 1; shape
            `[questions + 1]`.
        answers: Index of each question's correct option, shape `[questions]`.

    """

    corpus: Corpus
    groups: Int[np.ndarray, " questions_and_end"]
    answers: Int[np.ndarray, " questions"]

    @property
    def names(self) -> tuple[str, ...]:
        """The clients, sorted."""
        return self.corpus.names

    @property
    def left_out(self) -> Mapping[str, tuple[int, int]] | None:
        """How many questions were left out, of how many; see `Corpus`."""
        return self.corpus.left_out

    def targets(self) -> Int[np.ndarray, " clients"]:
        """Count each client's questions."""
        return self.pieces()

    def pieces(self) -> Int[np.ndarray, " clients"]:
        """Count each client's questions."""
        return np.diff(self._bounds())

    def most_rows(self, *, seq: int | None, pack: bool = True) -> int:
        """Count the questions of the client that has the most."""
        return int(self.pieces().max())

    def rows(self, clients: Sequence[int], *, seq: int | None, pack: bool = True) -> Rows:
        """Give access to the questions of some clients, whose batches are of type `ChoiceBatch`.

        Raises:
            ValueError: For `seq` that is None or below 1, and for a prompt and option of more than
                `seq + 1` tokens, naming their client.

        """
        seq = check_seq(seq, who="Choices")
        check_fit(self.corpus, longest=seq + 1, who="Choices")
        counts, questions = numbers_of(self._bounds(), clients)
        options = np.arange(np.diff(self.groups).max(initial=1))

        def take(order: Int[np.ndarray, "*axes"], wanted: Bool[np.ndarray, "*axes"]) -> ChoiceBatch:
            question = questions[order]
            first = self.groups[question][..., None]
            size = self.groups[question + 1][..., None] - first
            there = (options < size) & wanted[..., None]
            text = one_each(self.corpus, first + np.minimum(options, size - 1), there, seq=seq)
            answers = self.answers[question] * wanted
            return ChoiceBatch(text.tokens, text.targets, text.mask, there, answers, wanted)

        return Rows(counts, take)

    def select(self, ranges: Sequence[PieceRange]) -> "Choices":
        """Select questions of some clients; see `ClientData.select`."""
        bounds = self._bounds()
        questions = numbers_in(bounds, ranges)
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
        """Where each client's questions begin, and the end."""
        documents = np.concatenate([[0], np.cumsum(self.corpus.pieces())])
        return np.searchsorted(self.groups, documents)


def tokenize_choices(
    questions: Mapping[str, Sequence[Question]],
    tokenizer: Any,
    *,
    seq: int,
    template: str | None = None,
    date: str = DATE,
    long: Literal["error", "drop"] = "error",
    vocab_size: int | None = None,
) -> Choices:
    """Tokenise questions: each option becomes a document of at most `seq + 1` tokens.

    Prompt and option are rendered as a chat whose answer is the option, and tokenised as by
    `tokenize`.

    Args:
        questions: The questions of each client.
        tokenizer: A `PreTrainedTokenizerFast` of `transformers`.
        seq: Tokens per row, at least 1. A document has one token more, its last target.
        template: Jinja chat template, such as `INSTRUCTIONS`. Default: the tokenizer's.
        date: Date that a template's clock shows, such as "2025-01-31". Default "2024-07-26".
        long: How to handle questions with a longer document: "error" (default) or "drop".
        vocab_size: Size of the model's vocabulary. Default: the tokenizer's.

    Returns:
        The questions, clients sorted by name.

    Raises:
        TypeError: For anything but a mapping from client to a list of `Question`, and for a
            `tokenizer` that is none.
        ValueError: For a bad `seq` or `long`, a slow tokenizer, and a client all of whose questions
            are dropped; naming client or source, as `tokenize` does.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from fedjax_llm.data import Message, Question, tokenize_choices
        >>> words = ["<unk>", "</s>", "the", "cat", "sat"]
        >>> backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
        >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
        >>> template = "{% for m in messages %}{{ m.content }} {% endfor %}"
        >>> question = Question((Message("user", "the"),), options=("cat", "sat"), answer=0)
        >>> data = tokenize_choices({"ann": [question]}, tokenizer, seq=8, template=template)
        >>> data.corpus.tokens.tolist(), data.groups.tolist(), data.answers.tolist()
        ([2, 3, 2, 4], [0, 2], [0])

    """
    corpus, kept = tokenize_grouped(
        "tokenize_choices",
        questions,
        lambda question: with_answers(question, question.options),
        tokenizer,
        kind=Question,
        name="questions",
        seq=seq,
        template=template,
        date=date,
        long=long,
        vocab_size=vocab_size,
    )
    sizes = [len(question.options) for question in kept]
    return Choices(
        corpus,
        np.concatenate([[0], np.cumsum(sizes)]),
        np.array([question.answer for question in kept], np.int32),
    )
