"""A run from its configuration: everything that texts and numbers name, built and checked."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.random as jr
import optax
from fedjax_compression import codec, has_receiver_memory
from fedjax_compression.text import build, parse

from .adapters import full, lora
from .algorithm import FederatedAlgorithm
from .data import Batching, Split, hold_out
from .fed_avg import fed_avg
from .models import DecoderConfig
from .simulation import CLIENT_AXES, Auto, ClientAxis
from .tasks import Task, language_model
from .workload import Workload, workload

ALGORITHMS = {"fed_avg": fed_avg}
ADAPTERS = {"full": full, "lora": lora}
OPTIMIZERS = {
    factory.__name__: factory
    for factory in (
        optax.adagrad,
        optax.adam,
        optax.adamw,
        optax.chain,
        optax.clip_by_global_norm,
        optax.lion,
        optax.rmsprop,
        optax.sgd,
        optax.yogi,
    )
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that a run's numbers depend on. Texts are calls of the public factories."""

    rounds: int = 20
    clients: int = 32
    """Clients drawn for each round."""
    seed: int = 0
    algorithm: str = "fed_avg()"
    uplink: str = "identity()"
    """Codec of what clients send."""
    downlink: str = "identity()"
    """Codec of what the server sends."""
    prediction: float = 0.0
    """Share of the last round's update that clients and server subtract before coding an uplink;
    above 0 the downlink carries that update too."""
    client_axis: str | None = None
    """vmap(), scan(), chunked(size), or auto() for the fastest of these. Unless given, vmap() for
    a fresh decoder and scan() for a checkpoint."""
    client_optimizer: str | None = None
    """An Optax optimizer, afresh for each client and round. Unless given, adam(0.006) for a fresh
    decoder and adam(0.0005) for a checkpoint."""
    server_optimizer: str = "sgd(1.0, momentum=0.5, nesterov=True)"
    """An Optax optimizer that takes minus the mean update for a gradient."""
    adapter: str = "full()"
    """full() or lora(rank=8)."""
    local_steps: int | None = None
    """Steps of a client in a round; 8 unless local epochs are given."""
    local_epochs: int | None = None
    """Passes of a client over its text in a round, instead of local steps."""
    batch: int = 8
    """Windows in a step."""
    seq: int = 64
    """Tokens in a window; a fresh decoder's are bytes."""
    data: str = "shakespeare()"
    """shakespeare(), chitchat(), fedit('folder'), or jsonl or parquet, such as
    jsonl('chats.jsonl', fields(messages='messages', client='user')); or any of them dealt out
    anew by iid, dirichlet, label_shards, log_normal or power_law, such as
    iid(chitchat(), clients=100, seed=0)."""
    population: int | None = None
    """Clients to keep of those there are, drawn by the seed; a tenth of them is held out."""
    long: Literal["error", "truncate", "split"] = "split"
    """What becomes of an example longer than a window, where a checkpoint reads it."""
    model: str | None = None
    """A checkpoint to start from: a folder, a .gguf file, smollm2, or owner/name on the hub; a
    fresh decoder of the sizes below, which reads bytes, unless given."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


class Run(NamedTuple):
    """A configuration, built and checked: nothing has run yet, nothing was written."""

    config: RunConfig
    workload: Workload
    task: Task
    split: Split
    algorithm: FederatedAlgorithm
    batching: Batching
    client_axis: ClientAxis | Auto


def canonical(config: RunConfig) -> RunConfig:
    """The same configuration with each text in its one spelling, and all defaults in place."""
    given = config.local_steps is not None or config.local_epochs is not None
    fresh = config.model is None
    config = dataclasses.replace(
        config,
        local_steps=config.local_steps if given else 8,
        client_axis=config.client_axis or ("vmap()" if fresh else "scan()"),
        client_optimizer=config.client_optimizer or f"adam({0.006 if fresh else 0.0005})",
    )
    texts = {
        name: str(_named(name, parse, getattr(config, name)))
        for name in (
            "algorithm",
            "uplink",
            "downlink",
            "client_axis",
            "client_optimizer",
            "server_optimizer",
            "adapter",
            "data",
        )
    }
    return dataclasses.replace(config, **texts)  # type: ignore[arg-type]


def prepare(config: RunConfig, *, cache: Path | None = None) -> Run:
    """Build everything that a configuration names. Tokens of a checkpoint's are kept in `cache`.

    Raises `ValueError` naming the field, what was expected and what was got.
    """
    config = canonical(config)
    if config.rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {config.rounds}.")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed: expected 0 to 4294967295, got {config.seed}.")
    batching = Batching(
        seq=config.seq, batch=config.batch, steps=config.local_steps, epochs=config.local_epochs
    )
    learnt = workload(
        text=config.data,
        population=config.population,
        seed=config.seed,
        model=config.model,
        decoder=config.decoder,
        seq=config.seq,
        long=config.long,
        cache=cache,
    )
    split = hold_out(learnt.corpus, seed=config.seed)
    if not 1 <= config.clients <= len(split.train.names):
        raise ValueError(
            f"clients: expected 1 to {len(split.train.names)}, the clients there are, "
            f"got {config.clients}."
        )
    adapter = _named("adapter", _call, config.adapter, ADAPTERS)
    task = language_model(
        learnt.decoder, key=jr.key(config.seed), adapter=adapter, params=learnt.params
    )
    optimizers = {
        name: _named(name, _call, getattr(config, name), OPTIMIZERS)
        for name in ("client_optimizer", "server_optimizer")
    }
    codecs = {name: _named(name, codec, getattr(config, name)) for name in ("uplink", "downlink")}
    if config.clients < len(split.train.names) and has_receiver_memory(codecs["downlink"]):
        raise ValueError(
            f"downlink: {config.downlink} needs every client in every round, as a client that "
            f"misses a message cannot read the next; expected clients to be "
            f"{len(split.train.names)}, all there are, got {config.clients}."
        )
    named = {
        name: partial(
            factory,
            task.loss,
            jax.eval_shape(lambda: task.params),
            **optimizers,
            **codecs,
            prediction=config.prediction,
        )
        for name, factory in ALGORITHMS.items()
    }
    return Run(
        config,
        learnt,
        task,
        split,
        algorithm=_named("algorithm", _call, config.algorithm, named),
        batching=batching,
        client_axis=_named("client_axis", _call, config.client_axis, CLIENT_AXES),
    )


def _call(text: str, factories: Mapping[str, Callable]) -> Any:
    return build(parse(text), factories)


def _named(name: str, read: Callable, *args: Any) -> Any:
    """What `read` makes of a field, or its error with the field's name."""
    try:
        return read(*args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
