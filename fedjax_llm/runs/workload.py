"""What a run learns, and with what: clients' text as tokens, and the model that reads them."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fedjax_compression.text import build, parse
from jaxtyping import PyTree

from .. import data, models
from ..data import ClientData, Example, Examples
from ..data.examples import Records
from ..models import DecoderConfig
from .learning import Learning, Long


class Workload(NamedTuple):
    """Text and model, which fit each other."""

    corpus: ClientData
    decoder: DecoderConfig
    params: PyTree | None
    """Of the checkpoint; None for a decoder from scratch."""
    tokenizer: Any
    """Of the checkpoint; None for bytes."""


def workload(
    learning: Learning,
    *,
    text: str,
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
    records = _drawn(_named("data", text), population, seed)
    learning.check(records, long)
    if model is None:
        if decoder.vocab_size < 256:
            raise ValueError(
                f"vocab_size: expected at least 256 for bytes, got {decoder.vocab_size}."
            )
        return Workload(learning.bytes_of(records), decoder, None, None)
    _check_sizes(decoder)
    loaded = models.load(model, dtype=decoder.dtype, remat=decoder.remat)
    if not isinstance(loaded.config, DecoderConfig):
        raise ValueError(f"model: expected a decoder, got {model!r}, an encoder.")
    tokenizer = loaded.load_tokenizer()
    corpus = learning.tokens_of(
        records, tokenizer, seq=seq, long=long, vocab_size=loaded.config.vocab_size, cache=cache
    )
    return Workload(corpus, loaded.config, loaded.params, tokenizer)


def _shakespeare(*, at_least: int = 2000, roles: str = "") -> Examples:
    chosen = [role.strip() for role in roles.split(",") if role.strip()]
    texts = data.shakespeare(at_least=at_least, roles=chosen)
    return {role: [Example(text, source=role)] for role, text in texts.items()}


def _dealt(deal: Callable[..., Records]) -> Callable[..., Records]:
    """A partition of what clients have together."""

    @wraps(deal)
    def dealt(examples: Records, **choices: Any) -> Records:
        return deal(data.pooled(examples), **choices)

    return dealt


DATA: Mapping[str, Callable[..., Any]] = {
    "chitchat": data.chitchat,
    "fedit": data.fedit,
    "fields": data.Fields,
    "jsonl": data.jsonl,
    "pair_fields": data.PairFields,
    "parquet": data.parquet,
    "shakespeare": _shakespeare,
    **{
        deal.__name__: _dealt(deal)
        for deal in (data.dirichlet, data.iid, data.label_shards, data.log_normal, data.power_law)
    },
}
"""What `data` may name. A partition takes other data first: `iid(chitchat(), clients=9, seed=0)`.
"""


def _named(field: str, text: str) -> Records:
    try:
        found = build(parse(text), DATA)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{field}: {error}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{field}: expected clients' text, got {text!r}.")
    return found


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
