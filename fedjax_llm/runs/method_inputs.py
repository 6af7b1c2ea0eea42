"""What a method declares to need of a run, found in the run's configuration, task and data."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from fedjax_compression.text import Call
from flax import nnx
from jaxtyping import Integer, PyTree

from ..adapters.low_rank import LowRank
from ..data import Batch, Corpus, HoldOut, all_windows
from ..evaluation import bounded
from ..tasks import Task, halves
from .config import ParsedConfig, RunConfig
from .workload import Workload

NOTHING: Mapping[str, Any] = {
    "client_optimizer": None,
    "server_optimizer": None,
    "uplink": "identity()",
    "downlink": "identity()",
    "aggregate": None,
    "prediction": 0.0,
}
"""Fields that a method may need, and their value where nothing is asked for."""
PUBLIC = 2**20
"""Most tokens of public text, which is part of the compiled program: 4 MiB."""
OF_LANGUAGE_MODELS = ("vocab", "halves", "public", "root", "logits")


def method_inputs(
    parsed: ParsedConfig, parts: Mapping[str, Any], load: Workload, task: Task, split: HoldOut
) -> dict[str, Any]:
    """The value of each need that the run's method declares.

    Args:
        parsed: The configuration.
        parts: Codecs, optimizers and aggregator of the configuration, built, by field; fields
            without a text are left out.
        load: Text and model.
        task: The task.
        split: The data, divided into training and held-out parts.

    Raises:
        ValueError: For a field that the method does not need, for a need that this run cannot
            fill, by the field to change.

    """
    config, method = parsed.config, parsed.method
    _check_unneeded(parsed)
    if "steps" in method.needs and config.local_steps is None:
        raise ValueError(
            f"local_epochs: {_name(parsed)} takes as many steps of every client, expected "
            f"local_steps, got {config.local_epochs} epochs."
        )
    if set(OF_LANGUAGE_MODELS) & set(method.needs) and not isinstance(load.corpus, Corpus):
        raise ValueError(
            f"task: {_name(parsed)} is for language models, expected language_model(), got "
            f"{config.task}."
        )
    decoder = load.config
    known: dict[str, Callable[[], Any]] = {
        **{field: partial(lambda value: value, value) for field, value in parts.items()},
        "prediction": lambda: config.prediction,
        "steps": lambda: config.local_steps,
        "window": lambda: config.rounds,
        "clients": lambda: config.clients,
        "population": lambda: float(split.train.targets().sum()),
        "scale": lambda: _scale(task, config),
        "vocab": lambda: decoder.vocab_size,
        "logits": lambda: lambda params, frozen, tokens: task.model(params, frozen)(tokens),
        "public": lambda: _public(config, split.unseen_clients),
        "root": lambda: _root(config, task, split.unseen_clients),
        "halves": lambda: partial(halves, task, decoder.num_hidden_layers),
    }
    return {need: known[need]() for need in method.needs if need in known}


def check_client_axis(parsed: ParsedConfig) -> None:
    """Raise `ValueError` where the method cannot run its clients that way."""
    config = parsed.config
    if parsed.method.split and config.client_axis != "vmap()":
        raise ValueError(
            f"client_axis: {_name(parsed)} runs a round's clients together, as they meet the "
            f"server in every step, expected vmap(), got {config.client_axis}."
        )


def check_adapter(parsed: ParsedConfig, params: PyTree) -> None:
    """Raise `ValueError` where the method can do nothing with the adapter's parameters."""
    method, adapter = parsed.method, parsed.texts["adapter"]
    if method.forward_mode and "seeds" in names_in(adapter.call):
        raise ValueError(
            f"algorithm: {_name(parsed)} differentiates forwards, and the sum of directions of "
            f"{adapter.text} only backwards, expected another adapter, or fed_mezo(), which "
            "differentiates nothing."
        )
    if method.check_start:
        try:
            arguments = dict(parsed.texts["algorithm"].call.kwargs)
            method.check_start(params, arguments, adapter.text)
        except ValueError as error:
            raise ValueError(f"algorithm: {error}") from None


def _check_unneeded(parsed: ParsedConfig) -> None:
    for field, nothing in NOTHING.items():
        got = getattr(parsed.config, field)
        if got != nothing and field not in parsed.method.needs:
            why = "; what its clients send are slopes along seeded directions"
            raise ValueError(
                f"{field}: {_name(parsed)} takes none, expected {nothing}, got {got}"
                f"{why if parsed.method.sends_slopes else ''}."
            )


def _name(parsed: ParsedConfig) -> str:
    return parsed.texts["algorithm"].call.name


def names_in(call: Any) -> set[str]:
    """The functions that a call names, those in its arguments among them."""
    if not isinstance(call, Call):
        return set()
    given = (*call.args, *(value for _, value in call.kwargs))
    return {call.name}.union(*map(names_in, given))


def _scale(task: Task, config: RunConfig) -> float:
    """Alpha / rank of the adapter's products.

    Raises `ValueError` where there is not one number for all of them.
    """
    modules = nnx.iter_graph(task.model(task.params, task.frozen))
    scales = {module.scale for _, module in modules if isinstance(module, LowRank)}
    if len(scales) != 1 or not isinstance(scale := scales.pop(), float):
        raise ValueError(
            f"algorithm: {config.algorithm} needs an adapter of one scale, such as lora(rank=8), "
            f"got {config.adapter}."
        )
    return scale


def _public(config: RunConfig, unseen: Corpus) -> Integer[np.ndarray, "lots 1 batch seq"]:
    """Windows of the clients set aside, one batch for each round, reused in a cycle.

    No client trains on this text, and the scores on it are the server's. Its size does not depend
    on the number of rounds, as a run that goes on has the bits of a longer one.
    """
    batch, seq = config.batch, config.seq
    windows = len(unseen.tokens) // seq
    lots = min(windows // batch, max(PUBLIC // (batch * seq), 1))
    if not lots:
        raise ValueError(
            f"algorithm: {config.algorithm} asks clients about the text of those set aside, one of "
            f"ten; expected batch={batch} windows of seq={seq} tokens there, got {windows}."
        )
    return unseen.tokens[: lots * batch * seq].reshape(lots, 1, batch, seq)


def _root(config: RunConfig, task: Task, unseen: Corpus) -> Batch:
    """Windows of the clients set aside, as many as evaluations read of them."""
    if jax.tree.leaves(task.frozen):
        raise ValueError(
            f"adapter: {config.algorithm} trains at the server too, which has no frozen "
            f"parameters, expected full(), got {config.adapter}."
        )
    if not unseen.names:
        raise ValueError(
            f"unseen: {config.algorithm} trains at the server on the text of clients set aside, "
            f"expected at least one, got {config.unseen}."
        )
    assert config.evaluate_rows is not None  # noqa: S101 - as it is parsed
    own = bounded(
        unseen,
        rows=config.evaluate_rows,
        clients=len(unseen.names),
        seq=config.seq,
        seed=config.seed,
    )
    windows: Batch = all_windows(own, seq=config.seq, batch=config.batch)
    return windows
