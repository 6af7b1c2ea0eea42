"""A run from its configuration: everything that texts and numbers name, built and checked."""

import dataclasses
import inspect
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
from flax import nnx

from . import adapters
from .adapters.low_rank import LowRank
from .algorithm import FederatedAlgorithm
from .algorithms import (
    cocktail_sgd,
    decomfl,
    demo,
    diloco,
    fed_avg,
    fed_dyn,
    fed_kseed,
    fed_mezo,
    fed_nova,
    fed_prox,
    fed_sb,
    fed_sgd,
    fedex_lora,
    feed_sign,
    ffa_lora,
    flasc,
    flexlora,
    flora,
    fwd_llm,
    hetlora,
    muloco,
    rolora,
    scaffold,
    sparse_loco,
    spry,
    streaming_diloco,
)
from .base import base_of
from .data import Batching, Split, hold_out
from .models import DecoderConfig
from .simulation import CLIENT_AXES, Auto, ClientAxis
from .tasks import Task, language_model
from .workload import Workload, workload

ALGORITHMS = {
    factory.__name__: factory
    for factory in (
        cocktail_sgd,
        decomfl,
        demo,
        diloco,
        fed_avg,
        fed_dyn,
        fed_kseed,
        fed_mezo,
        fed_nova,
        fed_prox,
        fed_sb,
        fed_sgd,
        fedex_lora,
        ffa_lora,
        flasc,
        flexlora,
        flora,
        hetlora,
        feed_sign,
        fwd_llm,
        muloco,
        rolora,
        scaffold,
        sparse_loco,
        spry,
        streaming_diloco,
    )
}
"""Every method with one model for all: of `fedsa_lora` each client has its own, and a run's scores
are of the server's.
"""
ADAPTERS: Mapping[str, Callable] = {
    factory.__name__: factory
    for factory in (
        adapters.bitfit,
        adapters.bottleneck,
        adapters.dora,
        adapters.full,
        adapters.ia3,
        adapters.import_adapter,
        adapters.int8_base,
        adapters.layers,
        adapters.lora,
        adapters.nf4_base,
        adapters.prefix_tuning,
        adapters.prompt_tuning,
        adapters.rslora,
        adapters.seeds,
    )
}
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
    """A method with what it takes of its own, such as fed_prox(mu=0.01). What it takes of the
    flags below comes from them; one that it does not take is refused."""
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
    """An Optax optimizer of each client. Unless given, adam(0.006) for a fresh decoder and
    adam(0.0005) for a checkpoint; SGD for methods without gradients."""
    server_optimizer: str | None = None
    """An Optax optimizer that takes minus the mean update for a gradient. Unless given,
    sgd(1.0, momentum=0.5, nesterov=True), and for diloco() and its kin, fwd_llm()
    and spry() their own."""
    adapter: str = "full()"
    """full(), lora(rank=8), rslora, dora, ia3, bitfit, bottleneck, prompt_tuning, prefix_tuning,
    layers or seeds; nf4_base(lora(rank=8)) or int8_base(lora(rank=8))."""
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


FLAGS = {
    "client_optimizer": None,
    "server_optimizer": None,
    "uplink": "identity()",
    "downlink": "identity()",
    "prediction": 0.0,
}
"""What an algorithm may take from a configuration, and what stands for nothing there."""
OWN_SERVER_STEP = ("diloco", "fwd_llm", "muloco", "spry", "streaming_diloco")
"""Algorithms with a server optimizer of their own, which is theirs unless one is given."""
BY_ESTIMATES = ("decomfl", "fed_kseed", "fed_mezo", "feed_sign")
"""Algorithms whose clients step along estimates of two evaluations: SGD at a rate that bears them
unless an optimizer is given."""
SLOPES = ("decomfl", "fed_kseed", "feed_sign", "fwd_llm", "spry")
"""Algorithms whose clients send slopes along seeded directions, and nothing that grows with the
model."""
EVERY_ROUND = ("cocktail_sgd", "fedex_lora", "flora", "rolora", "streaming_diloco")
"""Algorithms whose clients must take part in every round."""


class Run(NamedTuple):
    """A configuration, built and checked: nothing has run yet, nothing was written."""

    config: RunConfig
    workload: Workload
    task: Task
    split: Split
    client_optimizer: optax.GradientTransformation | None
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
    )
    method = _named("algorithm", parse, config.algorithm).name
    if config.client_optimizer is None and _takes(method, "client_optimizer"):
        adam = f"adam({0.006 if fresh else 0.0005})"
        own = f"sgd({0.0001 if fresh else 0.000001})" if method in BY_ESTIMATES else adam
        config = dataclasses.replace(config, client_optimizer=own)
    stepping = _takes(method, "server_optimizer") and method not in OWN_SERVER_STEP
    if config.server_optimizer is None and stepping:
        nesterov = "sgd(1.0, momentum=0.5, nesterov=True)"
        config = dataclasses.replace(config, server_optimizer=nesterov)
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
        if getattr(config, name) is not None
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
    adapter = _built("adapter", config.adapter, ADAPTERS)
    task = language_model(
        learnt.decoder, key=jr.key(config.seed), adapter=adapter, params=learnt.params
    )
    given = {
        **{
            name: _built(name, getattr(config, name), OPTIMIZERS)
            for name in ("client_optimizer", "server_optimizer")
            if getattr(config, name) is not None
        },
        **{name: _named(name, codec, getattr(config, name)) for name in ("uplink", "downlink")},
        "prediction": config.prediction,
        "window": config.rounds,
        **({} if config.local_steps is None else {"steps": config.local_steps}),
    }
    if config.clients < len(split.train.names) and has_receiver_memory(given["downlink"]):
        raise ValueError(
            f"downlink: {config.downlink} needs every client in every round, as a client that "
            f"misses a message cannot read the next; expected clients to be "
            f"{len(split.train.names)}, all there are, got {config.clients}."
        )
    method = parse(config.algorithm).name
    if config.clients < len(split.train.names) and method in EVERY_ROUND:
        raise ValueError(
            f"algorithm: {method} needs every client in every round, expected clients to be "
            f"{len(split.train.names)}, all there are, got {config.clients}."
        )
    return Run(
        config,
        learnt,
        task,
        split,
        given.get("client_optimizer"),
        algorithm=_algorithm(config, task, given, population=float(split.train.targets().sum())),
        batching=batching,
        client_axis=_built("client_axis", config.client_axis, CLIENT_AXES),
    )


def _algorithm(
    config: RunConfig, task: Task, given: Mapping[str, Any], *, population: float
) -> FederatedAlgorithm:
    """The method that a configuration names, with what it takes of the flags.

    Raises `ValueError` for a flag that it does not take.
    """
    method = parse(config.algorithm).name
    for flag, nothing in FLAGS.items():
        got = getattr(config, flag)
        if got != nothing and method in ALGORITHMS and not _takes(method, flag):
            why = "; what its clients send are slopes along seeded directions"
            raise ValueError(
                f"{flag}: {method} takes none, expected {nothing}, got {got}"
                f"{why if method in SLOPES else ''}."
            )
    if method in ALGORITHMS and _takes(method, "steps") and config.local_steps is None:
        raise ValueError(
            f"local_epochs: {method} takes as many steps of every client, expected local_steps, "
            f"got {config.local_epochs} epochs."
        )
    like = jax.eval_shape(lambda: task.params)
    known = {**given, "population": population, "clients": config.clients}
    if method in ALGORITHMS and _takes(method, "scale"):
        known["scale"] = _scale(task, config)
    named = {
        name: partial(
            factory,
            task.loss,
            like,
            **{flag: value for flag, value in known.items() if _takes(name, flag)},
        )
        for name, factory in ALGORITHMS.items()
    }
    algorithm = _built("algorithm", config.algorithm, named)
    _named("algorithm", _check_base, algorithm, task)
    return algorithm


def _check_base(algorithm: FederatedAlgorithm, task: Task) -> None:
    """Raise `ValueError` where a method cannot add what it adds to the frozen kernels there are."""

    def begun(params: Any, frozen: Any) -> Any:
        return base_of(algorithm.init(jr.key(0), params), frozen)

    jax.eval_shape(begun, task.params, task.frozen)


def _scale(task: Task, config: RunConfig) -> float:
    """That of the adapter's products, alpha / rank.

    Raises `ValueError` where there is not one for all.
    """
    modules = nnx.iter_graph(task.model(task.params, task.frozen))
    scales = {module.scale for _, module in modules if isinstance(module, LowRank)}
    if len(scales) != 1 or not isinstance(scale := scales.pop(), float):
        raise ValueError(
            f"algorithm: {config.algorithm} needs an adapter of one scale, such as lora(rank=8), "
            f"got {config.adapter}."
        )
    return scale


def _takes(method: str, flag: str) -> bool:
    """Whether a method takes what a flag names; one that is not there takes anything."""
    factory = ALGORITHMS.get(method)
    return factory is None or flag in inspect.signature(factory).parameters


def _built(name: str, text: str | None, factories: Mapping[str, Callable]) -> Any:
    """What the text of a field names."""
    return _named(name, lambda: build(parse(text or ""), factories))


def _named(name: str, read: Callable, *args: Any) -> Any:
    """What `read` makes of a field, or its error with the field's name."""
    try:
        return read(*args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
