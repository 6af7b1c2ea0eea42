"""Tasks by name, as the `task` of a run spells them, and what a run needs of each."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from fedjax_compression.checks import check_choice, check_integer

from .. import data
from ..checks import check_scalar
from ..data import ClientData, Example, Pair
from ..data.readers.examples import Records
from ..models import DecoderConfig, EncoderConfig
from .classification import classification, label_accuracy
from .contract import Measure, Task
from .language_model import language_model
from .preference import preference, preferred, with_reference

Long: TypeAlias = Literal["error", "truncate", "split", "drop"]
"""How to handle a record with more tokens than a row has."""


class TaskSpec(NamedTuple):
    """How a run reads, trains and measures a task.

    A run proceeds in this order:

    1. The run's `data` gives records by client. `check` refuses records of another type than
       `kind`, and a `long` that the task does not offer. A pretrained model must have a config of
       the type `model`.
    2. `bytes_of` (for a fresh byte-level decoder) or `tokens_of` (with the tokenizer of a
       pretrained model) turns the records into client data. `hold_out` splits the data.
    3. `build` makes the `Task` from the model's config, the adapter and the parameters.
    4. `ready` adds to the data what depends on the initial model. If it returns another object,
       the run splits that one, with the same seed.
    5. Each round trains on `task.loss`. Its row reports the clients' loss as
       `train_nats_per_<unit>`.
    6. At the end, `task.nats` on held-out data gives `heldout_nats_per_<unit>` and
       `unseen_nats_per_<unit>` (of unseen clients). Each measure of `shares` gives
       `heldout_<name>` and `unseen_<name>`.

    To add a task, write a factory with keyword arguments that returns a `TaskSpec`, and add it to
    `TASKS`: a run with `task="name(argument=1)"` calls it. To use a spec once, without a name in
    `TASKS`, give it to the configuration: `RunConfig(task=Named("name(argument=1)", spec))`.

    Attributes:
        unit: What the loss is a mean over, for the names of result columns; tokens that are bytes
            are called "byte" there.
        model: Type of the config of the models that the task trains.
        texts: Sequences of `seq` tokens that the decoder reads for one row of a batch: 1, or 2 for
            a pair. It limits the rows of an evaluation batch.
        long: The values of the run's `long` that `tokens_of` accepts; the first is the default.
        kind: Type of the records, such as `Example`. `check` tests each client's first record.
        fields: How to read such records from files, such as "pair_fields(...)", for the error of
            `check`.
        bytes_of: `(records) -> data`: the data of a byte-level model. `records` maps each client
            to its records. The data is a `Corpus` of byte streams, as `byte_corpus` makes it; a
            run compares the model with a byte bigram on it. Raises `ValueError` if the task needs
            a tokenizer.
        tokens_of: `(records, tokenizer, *, seq, long, vocab_size, cache, date) -> data`: the data
            of a model with a tokenizer. `seq` is the tokens per row, `long` one of the values
            above, `vocab_size` the model's, `cache` a folder for tokens or None, and `date` the
            one that a chat template's clock shows.
        build: `(config, *, key, adapter, params) -> task`: the task for a config of type `model`.
            `params` are pretrained parameters, or None for a fresh decoder.
        ready: `(task, data, seq) -> data`: the data with what has to be computed with the initial
            model, such as the reference of `preference`; the same object if nothing has.
        shares: `(task) -> measures`: further measures by name, such as an accuracy, of which a run
            reports the mean over all that counts; empty if none.

    Example:
        Next-token prediction that also reports how often the most likely token is right:

        >>> import jax.numpy as jnp
        >>> from fedjax_llm import Named, RunConfig
        >>> from fedjax_llm.tasks import Scores
        >>> from fedjax_llm.tasks.registry import TASKS
        >>> def token_accuracy(task):
        ...     def measure(params, frozen, batch):
        ...         logits = task.model(params, frozen)(jnp.asarray(batch.tokens, jnp.int32))
        ...         right = (logits.argmax(axis=-1) == batch.targets) & batch.mask
        ...         totals, counts = (each.sum(axis=-1) * 1.0 for each in (right, batch.mask))
        ...         return Scores(totals, counts)
        ...     return measure
        >>> spec = TASKS["language_model"]()
        >>> spec.unit, spec.kind.__name__, spec.long
        ('token', 'Example', ('split', 'truncate', 'error'))
        >>> spec = spec._replace(shares=lambda task: {"accuracy": token_accuracy(task)})
        >>> config = RunConfig(task=Named("with_accuracy()", spec), data="shakespeare()")

    """

    unit: Literal["token", "pair", "text"]
    model: type
    texts: int
    long: tuple[Long, ...]
    kind: type
    fields: str
    bytes_of: Callable[[Records], ClientData]
    tokens_of: Callable[..., ClientData]
    build: Callable[..., Task]
    ready: Callable[[Task, Any, int], Any]
    shares: Callable[[Task], Mapping[str, Measure]]

    def check(self, records: Records, long: Long) -> None:
        """Check that the task can read some records.

        Args:
            records: The records by client.
            long: How to handle a record with more tokens than a row has.

        Raises:
            ValueError: If the task does not offer this `long`, or a client's first record is not
                of the type `kind`. The message opens with the field of `RunConfig`.

        """
        if long not in self.long:
            raise ValueError(f"long: expected {' or '.join(self.long)}, got {long}.")
        for client_records in records.values():
            if client_records and not isinstance(client_records[0], self.kind):
                raise ValueError(
                    f"data: expected records of the type {self.kind.__name__}, got "
                    f"{type(client_records[0]).__name__}; {self.fields} reads them from files."
                )


@lru_cache(maxsize=16, typed=True)
def _language_model() -> TaskSpec:
    return TaskSpec(
        unit="token",
        model=DecoderConfig,
        texts=1,
        long=("split", "truncate", "error"),
        kind=Example,
        fields="fields(...)",
        bytes_of=lambda records: data.byte_corpus(_streams(records)),
        tokens_of=data.tokenize,
        build=language_model,
        ready=lambda task, data, seq: data,
        shares=lambda task: {},
    )


@lru_cache(maxsize=16, typed=True)
def _preference(*, beta: float | int = 0.1, prompt_tokens: int | None = None) -> TaskSpec:
    """DPO on pairs; `prompt_tokens` of a prompt's end are kept where `long` is "truncate"."""
    check_scalar(beta, who="preference", name="beta", above=0)

    def no_bytes(records: Records) -> ClientData:
        raise ValueError(
            "model: expected a pretrained model, whose tokenizer separates a prompt from its "
            "answers, got none."
        )

    def tokens_of(
        records: Records, tokenizer: Any, *, cache: Path | None, **ways: Any
    ) -> ClientData:
        return data.tokenize_pairs(records, tokenizer, prompt_tokens=prompt_tokens, **ways)

    return TaskSpec(
        unit="pair",
        model=DecoderConfig,
        texts=2,
        long=("error", "truncate", "drop"),
        kind=Pair,
        fields="pair_fields(...)",
        bytes_of=no_bytes,
        tokens_of=tokens_of,
        build=lambda *args, **kwargs: preference(*args, **kwargs, beta=beta),
        ready=lambda task, pairs, seq: with_reference(task, pairs, seq=seq),
        shares=lambda task: {"preferred": preferred(task)},
    )


@lru_cache(maxsize=16, typed=True)
def _classification(*, labels: int, pooling: Literal["first", "mean"] = "first") -> TaskSpec:
    check_integer(labels, who="classification", name="labels", at_least=2)
    check_choice(pooling, ("first", "mean"), who="classification", name="pooling")

    def no_bytes(records: Records) -> ClientData:
        raise ValueError(
            "model: expected a pretrained encoder, such as minilm, for a classification, got none."
        )

    def tokens_of(
        records: Records, tokenizer: Any, *, cache: Path | None, date: str, **ways: Any
    ) -> ClientData:
        names = sorted({record.label for each in records.values() for record in each})
        if len(names) != labels or not all(names):
            raise ValueError(
                f"data: expected records with {labels} labels, as the task says, got "
                f"{len(names)}: {', '.join(map(repr, names[:9]))}; fields(text=..., label=...) "
                "reads labels from files."
            )
        return data.tokenize_labelled(records, tokenizer, label_names=names, **ways)

    return TaskSpec(
        unit="text",
        model=EncoderConfig,
        texts=1,
        long=("error", "truncate"),
        kind=Example,
        fields="fields(text=..., label=...)",
        bytes_of=no_bytes,
        tokens_of=tokens_of,
        build=partial(classification, labels=labels, pooling=pooling),
        ready=lambda task, data, seq: data,
        shares=lambda task: {"accuracy": label_accuracy(task)},
    )


TASKS: Mapping[str, Callable[..., TaskSpec]] = {
    "language_model": _language_model,
    "preference": _preference,
    "classification": _classification,
}
"""Factory of each task that the `task` of a run may name; the same call gives the same spec."""


def _streams(examples: Records) -> dict[str, str]:
    """Join each client's texts into one stream, for a byte-level model."""
    return {client: "\n".join(map(_plain, texts)) for client, texts in examples.items()}


def _plain(example: Example) -> str:
    if not isinstance(example.text, str):
        raise ValueError(
            "model: expected a pretrained model, whose tokenizer can write a chat, got none; "
            f"{example.source} is a chat."
        )
    return example.text
