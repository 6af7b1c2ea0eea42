"""The contract of a compressor as a check that anyone can call on a codec of their own."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PyTree

from . import wire
from .checks import check_compressor as check_is_compressor
from .contract import Compressor, payload_structure
from .wire.leaves import is_symbols

SHAPES = {"matrix": (7, 11), "vector": (13,), "one": (1,), "scalar": (), "odd": (3, 1, 5)}
"""Leaves of the update that codecs are checked on by default."""


class ContractError(AssertionError):
    """A promise of the contract that does not hold; the message says which, and how to mend it."""


def check_compressor(compressor: Compressor, update: PyTree | None = None) -> None:
    """Check every promise of the compressor contract on one update.

    Args:
        compressor: The codec to check.
        update: A pytree of floating-point arrays. Default: float32 leaves of five shapes, among
            them a scalar, a leaf with one entry and a leaf with three axes.

    Raises:
        ContractError: Naming the first promise that does not hold, what was expected, what was
            got, and how to mend it.
        TypeError: For anything but a `Compressor`.

    Example:
        >>> from fedjax_compression import identity
        >>> check_compressor(identity())
        >>> broken = identity()._replace(decode=lambda payload, like: {})
        >>> check_compressor(broken)
        Traceback (most recent call last):
        ...
        fedjax_compression.testing.ContractError: structure: expected decode to return the \
structure, shapes and dtypes of `like`, got {}; reshape and cast in decode.

    """
    check_is_compressor(compressor, who="check_compressor", name="compressor")
    trial = CompressorTrial(compressor, update)
    for promise in PROMISES:
        promise(trial)


class CompressorTrial:
    """One codec and one update, whose programs are compiled once for all promises.

    Args:
        compressor: The codec; `encode` and `decode` are jitted here.
        update: The update; the default of `check_compressor` if None.

    """

    def __init__(self, compressor: Compressor, update: PyTree | None = None) -> None:
        self.compressor = compressor
        self.encode, self.decode = jax.jit(compressor.encode), jax.jit(compressor.decode)
        self.update = default_update() if update is None else update

    @cached_property
    def encoded(self) -> tuple[PyTree, PyTree]:
        """The update's payload from a fresh state, and the state after it."""
        return self.encode(jr.key(1), self.update, self.compressor.init(self.update))


def default_update(seed: int = 0, dtype: Any = jnp.float32) -> PyTree:
    """Gaussian leaves of the shapes in `SHAPES`."""
    keys = jr.split(jr.key(seed), len(SHAPES))
    return {
        name: jr.normal(key, shape).astype(dtype)
        for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }


def structure_comes_back(trial: CompressorTrial) -> None:
    """Decoding has the structure, shapes and dtypes of the update, in float32 and half types."""
    c = trial.compressor
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        like = jax.eval_shape(lambda dtype=dtype: _cast(trial.update, dtype))
        decoded = jax.eval_shape(
            lambda payload, like=like: c.decode(payload, like), payload_structure(c, like)
        )
        hold(
            _structure(decoded) == _structure(like),
            "structure",
            "decode to return the structure, shapes and dtypes of `like`",
            decoded,
            "reshape and cast in decode",
        )


def bfloat16_stays_finite(trial: CompressorTrial) -> None:
    """A bfloat16 update decodes to finite bfloat16 entries."""
    x = _cast(trial.update, jnp.bfloat16)
    payload, _ = trial.encode(jr.key(1), x, trial.compressor.init(x))
    decoded = trial.decode(payload, x)
    hold(
        _structure(decoded) == _structure(x) and _finite(decoded),
        "bfloat16",
        "a finite bfloat16 update",
        decoded,
        "compute statistics in float32 and cast back in decode",
    )


def state_keeps_its_structure(trial: CompressorTrial) -> None:
    """`encode` returns a state of the structure, shapes and dtypes that `init` made."""
    x = _cast(trial.update, jnp.bfloat16)
    state = trial.compressor.init(jax.eval_shape(lambda: x))
    _, after = trial.encode(jr.key(1), x, state)
    hold(
        _structure(after) == _structure(state),
        "state",
        f"a state like {_structure(state)}",
        _structure(after),
        "cast what encode returns to the dtypes of init, which are the same for every round",
    )


def bytes_are_made_and_read(trial: CompressorTrial) -> None:
    """The message has the bytes that are counted, and reads back bit for bit."""
    payload, _ = trial.encoded
    like = payload_structure(trial.compressor, trial.update)
    data = wire.dumps(payload)
    leaves = jax.tree.leaves(payload, is_leaf=is_symbols)
    if not any(map(is_symbols, leaves)):
        hold(
            len(data) == wire.nbytes(like),
            "bytes",
            f"{wire.nbytes(like)} bytes, as the payload's shapes say",
            len(data),
            "give payload leaves static shapes",
        )
    read = wire.loads(data, like)
    hold(
        equal(read, payload),
        "bytes",
        "loads(dumps(payload)) to be the payload",
        read,
        "keep only numeric and boolean arrays, Symbols and Prefix in a payload",
    )
    hold(
        equal(trial.decode(read, trial.update), trial.decode(payload, trial.update)),
        "bytes",
        "the same update from the message as from the payload",
        "another",
        "let decode depend on the payload and `like` alone",
    )


def jit_equals_eager(trial: CompressorTrial) -> None:
    """Compiled and op-by-op computation agree to rounding (1e-5)."""
    c = trial.compressor
    x = dict(list(trial.update.items())[:1]) if isinstance(trial.update, dict) else trial.update
    eager = c.decode(c.encode(jr.key(1), x, c.init(x))[0], x)
    jitted = trial.decode(trial.encode(jr.key(1), x, c.init(x))[0], x)
    hold(
        _close(jitted, eager),
        "jit",
        "the same update with and without jit",
        jitted,
        "branch on shapes and hyper-parameters, never on values",
    )


def vmap_equals_a_loop(trial: CompressorTrial) -> None:
    """Three clients under one `vmap` get what each gets alone, to rounding (1e-5)."""
    c = trial.compressor
    clients = [
        jax.tree.map(lambda leaf, s=s: s * jnp.roll(leaf, s), trial.update) for s in (1, 2, 3)
    ]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *clients)
    states = jax.tree.map(lambda *rows: jnp.stack(rows), *map(c.init, clients))
    keys = jr.split(jr.key(1), 3)
    payloads, _ = jax.vmap(trial.encode)(keys, stacked, states)
    together = jax.vmap(lambda payload: trial.decode(payload, clients[0]))(payloads)
    for row, (key, x) in enumerate(zip(keys, clients, strict=True)):
        alone = trial.decode(trial.encode(key, x, c.init(x))[0], x)
        hold(
            _close(jax.tree.map(lambda leaf, row=row: leaf[row], together), alone),
            "vmap",
            f"client {row} to get what it gets alone",
            "another update",
            "write encode and decode for one client, without a global state",
        )


def zeros_are_exact(trial: CompressorTrial) -> None:
    """A zero update decodes to zeros and leaves a finite state."""
    zeros = jax.tree.map(jnp.zeros_like, trial.update)
    payload, state = trial.encode(jr.key(1), zeros, trial.compressor.init(zeros))
    decoded = trial.decode(payload, zeros)
    hold(
        equal(decoded, zeros) and _finite(state),
        "zeros",
        "zeros and a finite state",
        decoded,
        "guard divisions by a norm or a range: jnp.where(norm > 0, norm, 1)",
    )


def constants_stay_finite(trial: CompressorTrial) -> None:
    """An update of one value decodes to finite entries."""
    constant = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), trial.update)
    payload, _ = trial.encode(jr.key(1), constant, trial.compressor.init(constant))
    decoded = trial.decode(payload, constant)
    hold(
        _finite(decoded), "constants", "finite entries", decoded, "guard divisions by a range of 0"
    )


def empty_trees_and_leaves_come_back(trial: CompressorTrial) -> None:
    """An update without leaves, and one with a leaf without entries, come back."""
    init = trial.compressor.init
    for x in ({}, {"empty": jnp.zeros((0, 2)), "full": jnp.ones(3)}):
        decoded = trial.decode(trial.encode(jr.key(1), x, init(x))[0], x)
        hold(
            _structure(decoded) == _structure(x),
            "empty",
            f"an update like {_structure(x)}",
            decoded,
            "treat sizes of 0 apart where you reduce, sort or divide by a size",
        )


def failures_are_reported_and_do_not_spread(trial: CompressorTrial) -> None:
    """One NaN or infinity decodes to a non-finite entry somewhere, and the state stays finite."""
    _, state = trial.encoded
    for index, value, broken in _with_one_value(trial.update, (jnp.nan, jnp.inf, -jnp.inf)):
        payload, after = trial.encode(jr.key(2), broken, state)
        hold(
            not _finite(trial.decode(payload, trial.update)),
            "failures",
            f"a non-finite entry after decoding an update with {value} in leaf {index}",
            "finite entries",
            "send a NaN scale where the largest magnitude is not finite",
        )
        hold(
            _finite(after),
            "failures",
            f"a finite state after an update with {value} in leaf {index}",
            after,
            "keep the old state where the update is not finite",
        )


def rounds_trace_once(trial: CompressorTrial) -> None:
    """Encoding again with another key and the new state traces nothing again."""
    c, x, traces = trial.compressor, trial.update, 0

    @jax.jit
    def step(key: Any, update: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        nonlocal traces
        traces += 1
        payload, state = c.encode(key, update, state)
        return c.decode(payload, update), state

    state = c.init(x)
    for seed in range(3):
        _, state = step.eval_shape(jr.key(seed), x, state)  # traces, and does not compile
    hold(
        traces == 1,
        "tracing",
        "one trace for three rounds",
        traces,
        "keep the state's structure, shapes, dtypes and weak types from round to round",
    )


def integers_are_refused_or_exact(trial: CompressorTrial) -> None:
    """A leaf of integers raises `TypeError`, unless it comes back as it was."""
    c, x = trial.compressor, {"n": jnp.arange(3)}
    try:
        decoded = c.decode(c.encode(jr.key(0), x, c.init({"n": jnp.zeros(3)}))[0], x)
    except TypeError:
        return
    hold(
        equal(decoded, x), "integers", "a TypeError", decoded, "call ops.flat.check_floating first"
    )


def receiver_state_stays_finite(trial: CompressorTrial) -> None:
    """`receive` keeps its state's structure; a non-finite mean leaves the state as it was."""
    c, x = trial.compressor, trial.update
    memory = c.receiver(jax.eval_shape(lambda: x))
    received, after = c.receive(x, memory, 1.0)
    hold(
        jax.tree.map(jnp.shape, received) == jax.tree.map(jnp.shape, x)
        and _structure(after) == _structure(memory),
        "receiver",
        "an update of the mean's shapes and a state of the structure of `receiver`",
        (_structure(received), _structure(after)),
        "return what `receiver` made, updated",
    )
    _, _, broken = next(_with_one_value(x, (jnp.nan,)))
    _, still = c.receive(broken, after, 1.0)
    hold(equal(still, after), "receiver", "the old state after a NaN", still, "keep it there")


def integers_add_up(trial: CompressorTrial) -> None:
    """The sum of three messages' integers, if they have any, decodes to the sum of the updates."""
    c, x = trial.compressor, trial.update
    adds = c.summable
    if adds is None:
        return
    payloads = [trial.encode(jr.key(seed), x, c.init(x))[0] for seed in range(3)]
    of_each = [adds.integers(payload, x) for payload in payloads]
    half = 2 ** (adds.bits - 1)
    hold(
        all(((each >= -half) & (each < half)).all() for each in of_each),
        "sums",
        f"integers of {adds.bits} bits",
        of_each,
        "declare the bits that they have",
    )
    whole = adds.total(of_each[0] + of_each[1] + of_each[2], x)
    decoded = [trial.decode(payload, x) for payload in payloads]
    hold(
        _close(whole, jax.tree.map(lambda *leaves: sum(leaves), *decoded)),
        "sums",
        "the sum of the decoded updates from the sum of the integers",
        whole,
        "give all messages one scale and one order",
    )
    hold(
        not adds.failed(of_each[0]),
        "sums",
        "a finite update not to have failed",
        True,
        "see failed",
    )
    for index, value, broken in _with_one_value(x, (jnp.nan, jnp.inf)):
        payload, _ = trial.encode(jr.key(2), broken, c.init(x))
        hold(
            adds.failed(adds.integers(payload, x)),
            "sums",
            f"an update with {value} in leaf {index} to have failed",
            "that it has not",
            "keep an integer that stands for an entry that is not finite",
        )


PROMISES: tuple[Callable[[CompressorTrial], None], ...] = (
    structure_comes_back,
    bfloat16_stays_finite,
    state_keeps_its_structure,
    bytes_are_made_and_read,
    jit_equals_eager,
    vmap_equals_a_loop,
    zeros_are_exact,
    constants_stay_finite,
    empty_trees_and_leaves_come_back,
    failures_are_reported_and_do_not_spread,
    rounds_trace_once,
    integers_are_refused_or_exact,
    receiver_state_stays_finite,
    integers_add_up,
)
"""Every promise, each a function that raises `ContractError`."""


def hold(holds: Any, promise: str, expected: str, got: Any, remedy: str) -> None:
    """Raise `ContractError` with the promise and its remedy unless it holds."""
    if not holds:
        shown = " ".join(repr(got).split())[:120]
        raise ContractError(f"{promise}: expected {expected}, got {shown}; {remedy}.")


def _with_one_value(update: PyTree, values: tuple) -> Iterator[tuple[int, Any, PyTree]]:
    leaves, treedef = jax.tree.flatten(update)
    for index, leaf in enumerate(leaves):
        for value in values if leaf.size else ():
            broken = leaf.at[(0,) * leaf.ndim].set(value)
            yield (
                index,
                value,
                jax.tree.unflatten(treedef, [*leaves[:index], broken, *leaves[index + 1 :]]),
            )


def _cast(tree: PyTree, dtype: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _structure(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)


def _finite(tree: PyTree) -> bool:
    return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


def equal(one: PyTree, other: PyTree) -> bool:
    """Whether two pytrees have the same structure and values; NaN equals NaN."""
    return same_structure(one, other) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def _close(one: PyTree, other: PyTree) -> bool:
    return all(
        np.allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def same_structure(one: PyTree, other: PyTree) -> bool:
    """Whether two pytrees have the same structure."""
    first: Any = jax.tree.structure(one)
    return first == jax.tree.structure(other)
