"""A run's data and model: clients' text as tokens, and a model with that vocabulary."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import PyTree

from .. import models
from ..data import ClientData, Labelled
from ..data.readers.examples import Records
from ..data.readers.rows import read_text
from ..data.registry import DATA
from ..data.tokenisation.chat import CLOCK, DATE
from ..models import DecoderConfig, EncoderConfig
from ..tasks.registry import Long, TaskSpec
from .contents import Contents, model_contents, records_digest
from .texts import Parsed, built


class Workload(NamedTuple):
    """Data, and a model with the same vocabulary.

    Attributes:
        corpus: The data by client.
        config: The model's sizes.
        heldout: Held-out data of its own, by client; None where it is a share of the corpus.
        params: Parameters of the pretrained model; None for a fresh decoder.
        tokenizer: The pretrained model's tokenizer; None for bytes.
        names: All clients of the data, those that were not drawn among them.
        contents: Digests of the data, the held-out data of its own, the model, its tokenizer and
            its chat template.
        left_out: What of the data, and of the held-out data of its own, tokenisation left out: how
            many of how many, such as `{"data": {"pairs": (3, 90)}}`; empty if nothing.

    """

    corpus: ClientData
    heldout: ClientData | None
    config: DecoderConfig | EncoderConfig
    params: PyTree | None
    tokenizer: Any
    names: tuple[str, ...]
    contents: Contents
    left_out: Mapping[str, Mapping[str, tuple[int, int]]]

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The labels of labelled texts, in the order of a classifier's scores; else None."""
        return self.corpus.label_names if isinstance(self.corpus, Labelled) else None


def workload(
    task_spec: TaskSpec,
    *,
    text: Parsed,
    heldout: Parsed | None,
    population: int | None,
    seed: int,
    model: str | None,
    chat_template: str | None,
    date: str,
    decoder: DecoderConfig,
    seq: int,
    long: Long,
    cache: Path | None,
) -> Workload:
    """Load a run's data and model; the arguments are fields of `RunConfig`.

    Args:
        task_spec: The task, which says how records become data.
        text: The parsed `data`.
        heldout: The parsed `heldout`; None where it is a share.
        population: Clients to keep; None keeps all.
        seed: Seed that draws them.
        model: Pretrained model; None for a fresh byte-level decoder.
        chat_template: File with a chat template in place of the model's.
        date: Date that a template's clock shows.
        decoder: Sizes of the fresh decoder, and the dtype and remat of either.
        seq: Tokens in a window.
        long: How to handle longer examples.
        cache: Folder for tokens; None keeps none.

    Raises:
        ValueError: Naming the field, what was expected and what was got.

    """
    everyone = _records("data", text)
    names, contents = tuple(sorted(everyone)), {"data": records_digest(everyone, who="data")}
    sets = [_drawn(everyone, population, seed)]
    if heldout is not None:
        sets.append(_records("heldout", heldout))
        contents["heldout"] = records_digest(sets[1], who="heldout")
    for records in sets:
        task_spec.check(records, long)
    if model is None:
        _check_no_template(chat_template, date)
        if decoder.vocab_size < 256:
            raise ValueError(
                f"vocab_size: expected at least 256 for bytes, got {decoder.vocab_size}."
            )
        corpus, *own = [task_spec.bytes_of(records) for records in sets]
        return Workload(corpus, own[0] if own else None, decoder, None, None, names, contents, {})
    _check_sizes(decoder)
    loaded = models.load(model, dtype=decoder.dtype, remat=decoder.remat)
    if not isinstance(loaded.config, task_spec.model):
        kinds = {DecoderConfig: "a decoder", EncoderConfig: "an encoder"}
        raise ValueError(
            f"model: expected {kinds[task_spec.model]}, which the task trains, got {model!r}, "
            f"{kinds[type(loaded.config)]}."
        )
    tokenizer = loaded.load_tokenizer()
    if chat_template is not None and task_spec.model is EncoderConfig:
        raise ValueError(
            f"chat_template: expected none for an encoder, which reads no chats, got "
            f"{chat_template!r}."
        )
    if chat_template is not None:
        tokenizer.chat_template = read_text(Path(chat_template))
    if date != DATE and CLOCK not in str(tokenizer.chat_template):
        raise ValueError(
            f"date: expected none, as the model's chat template shows no date, got {date!r}."
        )
    contents |= model_contents(loaded.config, loaded.params, tokenizer)
    corpus, *own = [
        task_spec.tokens_of(
            records,
            tokenizer,
            seq=seq,
            long=long,
            vocab_size=loaded.config.vocab_size,
            cache=cache,
            date=date,
        )
        for records in sets
    ]
    labels = [each.label_names for each in (corpus, *own) if isinstance(each, Labelled)]
    if len(set(labels)) > 1:
        ours, theirs = (", ".join(map(repr, names)) for names in labels)
        raise ValueError(f"heldout: expected the labels of the data, {ours}, got {theirs}.")
    left_out = {
        field: counts
        for field, each in zip(("data", "heldout"), (corpus, *own), strict=False)
        if (counts := getattr(each, "left_out", None))
    }
    return Workload(
        corpus,
        own[0] if own else None,
        loaded.config,
        loaded.params,
        tokenizer,
        names,
        contents,
        left_out,
    )


Read: TypeAlias = Callable[..., Workload]
"""A function with the arguments and the result of `workload`."""


def keeping_last() -> Read:
    """Make a `workload` that keeps its last result, for configurations that read the same.

    What the files held at the first call is what later calls with equal arguments return.
    """
    kept: list[Any] = []

    def read(task_spec: TaskSpec, **fields: Any) -> Workload:
        asked = task_spec, {name: _told(value) for name, value in fields.items()}
        if not kept or kept[0] != asked:
            kept.clear()  # before the next is read: two models need not fit
            kept.extend((asked, workload(task_spec, **fields), fields))  # so that no id is reused
        found: Workload = kept[1]
        return found

    return read


def _told(value: Any) -> Any:
    """What tells two fields apart; of an object that was given, which it is."""
    return (value.call, id(value.value)) if isinstance(value, Parsed) else value


def _records(field: str, text: Parsed) -> Records:
    records = built(field, text, DATA)
    if not isinstance(records, Mapping):
        raise ValueError(f"{field}: expected clients' text, got {text.text!r}.")
    return records


def _drawn(examples: Records, population: int | None, seed: int) -> Records:
    """Keep `population` of the clients, drawn by the seed."""
    if population is None:
        return examples
    names = sorted(examples)
    if not 1 <= population <= len(names):
        raise ValueError(
            f"population: expected 1 to {len(names)}, the number of clients, got {population}."
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(names))
    return {names[i]: examples[names[i]] for i in sorted(order[:population].tolist())}


def _check_no_template(chat_template: str | None, date: str) -> None:
    """Refuse a template and its date without a pretrained model, as bytes have no chats."""
    for name, value, default in (("chat_template", chat_template, None), ("date", date, DATE)):
        if value != default:
            raise ValueError(
                f"{name}: expected none without --model, as a byte-level decoder reads no chats, "
                f"got {value!r}."
            )


def _check_sizes(decoder: DecoderConfig) -> None:
    """Refuse sizes beside a pretrained model, which has its own."""
    fresh = DecoderConfig(dtype=decoder.dtype, remat=decoder.remat)
    for field in dataclasses.fields(decoder):
        if (got := getattr(decoder, field.name)) != getattr(fresh, field.name):
            raise ValueError(
                f"{field.name}: expected none beside --model, whose own is used, got {got}."
            )
