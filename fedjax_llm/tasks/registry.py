"""What a run learns of its clients' records, and what is measured of that, by the task's name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from .. import data
from ..data import ClientData, Example, Pair
from ..data.readers.examples import Records
from .contract import Measure, Task
from .language_model import language_model
from .preference import preference, preferred, with_reference

Long: TypeAlias = Literal["error", "truncate", "split", "drop"]


class TaskSpec(NamedTuple):
    """How records become what a task reads."""

    unit: Literal["token", "pair"]
    """What nats are counted by."""
    texts: int
    """In a row of a batch."""
    long: tuple[Long, ...]
    """What may become of what is longer than a window; the first unless a run says."""
    kind: type
    """Of each record."""
    fields: str
    """What reads such records from files."""
    bytes_of: Callable[[Records], ClientData]
    """What a model of bytes reads; raises `ValueError` where it reads none."""
    tokens_of: Callable[..., ClientData]
    """`(records, tokenizer, *, seq, long, vocab_size, cache)`."""
    build: Callable[..., Task]
    """`(decoder, *, key, adapter, params)`."""
    ready: Callable[[Task, Any, int], Any]
    """`(task, data, seq)`: the data with what of the task's start it has to hold."""
    shares: Callable[[Task], Mapping[str, Measure]]
    """What else is measured, beside nats: shares of what counts, by name."""

    def check(self, records: Records, long: Long) -> None:
        """Raise `ValueError` where records are of another kind, or cannot become that."""
        if long not in self.long:
            raise ValueError(f"long: expected {' or '.join(self.long)}, got {long}.")
        for own in records.values():
            if own and not isinstance(own[0], self.kind):
                raise ValueError(
                    f"data: expected records of the type {self.kind.__name__}, as {self.fields} "
                    f"reads them, got {type(own[0]).__name__}."
                )


def _language_model() -> TaskSpec:
    return TaskSpec(
        "token",
        1,
        ("split", "truncate", "error"),
        Example,
        "fields(...)",
        lambda records: data.byte_corpus(_streams(records)),
        data.tokenize,
        language_model,
        lambda task, data, seq: data,
        lambda task: {},
    )


def _preference(*, beta: float | int = 0.1) -> TaskSpec:
    if isinstance(beta, bool) or not 0 < beta < float("inf"):
        raise ValueError(f"preference: beta must be above 0 and finite, got {beta!r}.")

    def no_bytes(records: Records) -> ClientData:
        raise ValueError(
            "model: expected a checkpoint, whose tokenizer can write a prompt and its answers, "
            "got none."
        )

    def tokens_of(
        records: Records,
        tokenizer: Any,
        *,
        seq: int,
        long: Long,
        vocab_size: int,
        cache: Path | None,
    ) -> ClientData:
        ways: dict[str, Any] = {"seq": seq, "long": long, "vocab_size": vocab_size}
        return data.tokenize_pairs(records, tokenizer, **ways)

    return TaskSpec(
        "pair",
        2,
        ("error", "drop"),
        Pair,
        "pair_fields(...)",
        no_bytes,
        tokens_of,
        lambda *args, **parts: preference(*args, **parts, beta=beta),
        lambda task, pairs, seq: with_reference(task, pairs, seq=seq),
        lambda task: {"preferred": preferred(task)},
    )


TASKS: Mapping[str, Callable[..., TaskSpec]] = {
    "language_model": _language_model,
    "preference": _preference,
}
"""What `task` may name."""


def _streams(examples: Records) -> dict[str, str]:
    """Each client's texts as one, for a model of bytes."""
    return {client: "\n".join(map(_plain, own)) for client, own in examples.items()}


def _plain(example: Example) -> str:
    if not isinstance(example.text, str):
        raise ValueError(
            f"model: expected a checkpoint, whose tokenizer can write a chat, as {example.source} "
            "is one, got none."
        )
    return example.text
