"""A run from its configuration: everything that texts and numbers name, built and checked."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.random as jr
import optax
from fedjax_compression import codec, has_receiver_memory
from fedjax_compression.text import parse
from flax import nnx

from ..adapters.low_rank import LowRank
from ..algorithm import FederatedAlgorithm
from ..base import base_of
from ..data import Batching, Split, hold_out
from ..simulation import CLIENT_AXES, Auto, ClientAxis, Conditions
from ..split import SplitMethod
from ..tasks import Task
from .conditions import conditions
from .config import RunConfig, canonical
from .learning import TASKS, Learning
from .methods import ALGORITHMS, FLAGS, SLOPES, takes
from .names import ADAPTERS, OPTIMIZERS, built, named
from .taken import check_adapter, check_clients, taken
from .workload import Workload, workload


class Run(NamedTuple):
    """A configuration, built and checked: no round has run yet, nothing was written."""

    config: RunConfig
    learning: Learning
    workload: Workload
    task: Task
    split: Split
    client_optimizer: optax.GradientTransformation | None
    algorithm: FederatedAlgorithm | SplitMethod
    batching: Batching
    client_axis: ClientAxis | Auto
    conditions: Conditions


def prepare(config: RunConfig, *, cache: Path | None = None) -> Run:
    """Build everything that a configuration names. Tokens of texts are kept in `cache`, where a
    checkpoint reads them. What pairs are measured against is computed here, last of all.

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
    learning: Learning = built("task", config.task, TASKS)
    assert config.long is not None  # noqa: S101 - as it is canonical
    learnt = workload(
        learning,
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
    adapter = built("adapter", config.adapter, ADAPTERS)
    task = learning.build(
        learnt.decoder, key=jr.key(config.seed), adapter=adapter, params=learnt.params
    )
    given = {
        **{
            name: built(name, getattr(config, name), OPTIMIZERS)
            for name in ("client_optimizer", "server_optimizer")
            if getattr(config, name) is not None
        },
        **{name: named(name, codec, getattr(config, name)) for name in ("uplink", "downlink")},
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
    check_clients(config, len(split.train.names))
    under = conditions(config, given["downlink"])
    check_adapter(config, task.params)
    given |= taken(config, learnt, task, split)
    algorithm = _algorithm(config, task, given, population=float(split.train.targets().sum()))
    client_axis = built("client_axis", config.client_axis, CLIENT_AXES)
    ready = learning.ready(task, learnt.corpus, config.seq)
    if ready is not learnt.corpus:
        split = hold_out(ready, seed=config.seed)
    return Run(
        config,
        learning,
        learnt,
        task,
        split,
        given.get("client_optimizer"),
        algorithm,
        batching,
        client_axis,
        under,
    )


def _algorithm(
    config: RunConfig, task: Task, given: Mapping[str, Any], *, population: float
) -> FederatedAlgorithm | SplitMethod:
    """The method that a configuration names, with what it takes of the flags.

    Raises `ValueError` for a flag that it does not take.
    """
    method = parse(config.algorithm).name
    for flag, nothing in FLAGS.items():
        got = getattr(config, flag)
        if got != nothing and method in ALGORITHMS and not takes(method, flag):
            why = "; what its clients send are slopes along seeded directions"
            raise ValueError(
                f"{flag}: {method} takes none, expected {nothing}, got {got}"
                f"{why if method in SLOPES else ''}."
            )
    if method in ALGORITHMS and takes(method, "steps") and config.local_steps is None:
        raise ValueError(
            f"local_epochs: {method} takes as many steps of every client, expected local_steps, "
            f"got {config.local_epochs} epochs."
        )
    like = jax.eval_shape(lambda: task.params)
    known = {**given, "population": population, "clients": config.clients}
    if method in ALGORITHMS and takes(method, "scale"):
        known["scale"] = _scale(task, config)
    factories = {
        name: partial(
            factory,
            *(() if takes(name, "halves") else (task.loss,)),
            like,
            **{flag: value for flag, value in known.items() if takes(name, flag)},
        )
        for name, factory in ALGORITHMS.items()
    }
    algorithm = built("algorithm", config.algorithm, factories)
    named("algorithm", _check_base, algorithm, task)
    return algorithm


def _check_base(algorithm: FederatedAlgorithm | SplitMethod, task: Task) -> None:
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
