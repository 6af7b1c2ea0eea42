"""What a run learns, and with what: clients' text as tokens, and the model that reads them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PyTree

from .. import models
from ..data import ClientData
from ..data.readers.examples import Records
from ..data.registry import DATA
from ..models import DecoderConfig
from ..tasks.registry import Long, TaskSpec
from .texts import Parsed, built


class Workload(NamedTuple):
    """Text and model, which fit each other."""

    corpus: ClientData
    decoder: DecoderConfig
    params: PyTree | None
    """Of the checkpoint; None for a decoder from scratch."""
    tokenizer: Any
    """Of the checkpoint; None for bytes."""


def workload(
    task_spec: TaskSpec,
    *,
    text: Parsed,
    population: int | None,
    seed: int,
    model: str | None,
    decoder: DecoderConfig,
    seq: int,
    long: Long,
    cache: Path | None,
) -> Workload:
    """The clients that `text` names, as what is learnt of them needs it, and a checkpoint with its
    tokenizer, or a fresh decoder of bytes; as `RunConfig` describes them.

    Raises `ValueError` naming the field, what was expected and what was got.
    """
    records = _drawn(_records(text), population, seed)
    task_spec.check(records, long)
    if model is None:
        if decoder.vocab_size < 256:
            raise ValueError(
                f"vocab_size: expected at least 256 for bytes, got {decoder.vocab_size}."
            )
        return Workload(task_spec.bytes_of(records), decoder, None, None)
    _check_sizes(decoder)
    loaded = models.load(model, dtype=decoder.dtype, remat=decoder.remat)
    if not isinstance(loaded.config, DecoderConfig):
        raise ValueError(f"model: expected a decoder, got {model!r}, an encoder.")
    tokenizer = loaded.load_tokenizer()
    corpus = task_spec.tokens_of(
        records, tokenizer, seq=seq, long=long, vocab_size=loaded.config.vocab_size, cache=cache
    )
    return Workload(corpus, loaded.config, loaded.params, tokenizer)


def _records(text: Parsed) -> Records:
    records = built("data", text, DATA)
    if not isinstance(records, Mapping):
        raise ValueError(f"data: expected clients' text, got {text.text!r}.")
    return records


def _drawn(examples: Records, population: int | None, seed: int) -> Records:
    """So many of the clients, drawn by the seed."""
    if population is None:
        return examples
    names = sorted(examples)
    if not 1 <= population <= len(names):
        raise ValueError(
            f"population: expected 1 to {len(names)}, the clients there are, got {population}."
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(names))
    return {names[i]: examples[names[i]] for i in sorted(order[:population].tolist())}


def _check_sizes(decoder: DecoderConfig) -> None:
    """A checkpoint has its own sizes: others would silently do nothing."""
    fresh = DecoderConfig(dtype=decoder.dtype, remat=decoder.remat)
    for field in dataclasses.fields(decoder):
        if (got := getattr(decoder, field.name)) != getattr(fresh, field.name):
            raise ValueError(
                f"{field.name}: expected none, as the model's is that of its checkpoint, got {got}."
            )
