"""What is known of an update, kept in float32 at both ends."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from ..contract import Compressor, Like, Memory, Payload, State, Update, check_no_receiver_memory
from ..ops.flat import check_floating


class Shifted(NamedTuple):
    """What a sender keeps."""

    known: Update
    """What its messages so far add up to, times the rate, in float32."""
    inner: State


def shifted(
    compressor: Compressor,
    *,
    rate: float | int,
    participation: float | int,
    received: Callable[[Update, Update, Update], Update],
    who: str,
) -> Compressor:
    """Send C(x - h) and move h by `rate` times what it decodes to, at either end.

    The receiver's h is the mean of all senders', and moves by `rate` times `participation` times
    the mean of what it decoded; `received(known, moved, mean)`, of h before and after, is what that
    mean stands for. Where an update or a mean is not finite, h stays.
    Raises `ValueError` unless 0 < participation <= 1, and for a codec whose receiver keeps a
    memory.
    """
    check_participation(participation, who=who)
    check_no_receiver_memory(compressor, who=who)

    def init(like: Like) -> State:
        return Shifted(zeros(like, who=who), compressor.init(like))

    def encode(key: Key[Array, ""], update: Update, state: Shifted) -> tuple[Payload, State]:
        offered = difference(update, state.known)
        payload, inner = compressor.encode(key, offered, state.inner)
        known = add(state.known, scaled(rate, compressor.decode(payload, update)))
        return payload, finite_or(known, Shifted(known, inner), state)

    def receive(mean: Update, known: Memory) -> tuple[Update, Memory]:
        moved = add(known, scaled(rate * participation, mean))
        return received(known, moved, mean), finite_or(moved, moved, known)

    return Compressor(init, encode, compressor.decode, lambda like: zeros(like, who=who), receive)


def zeros(like: Like, *, who: str) -> Update:
    """What is known before any message. Raises as `check_floating` does."""
    check_floating(like, who=who)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)


def difference(update: Update, known: Update) -> Update:
    """Update - known in the update's dtypes, so that a message is no longer than without memory."""
    return jax.tree.map(lambda x, h: (x.astype(jnp.float32) - h).astype(x.dtype), update, known)


def scaled(factor: float | int, update: Update) -> Update:
    """Factor * update, in float32."""
    return jax.tree.map(lambda leaf: factor * leaf.astype(jnp.float32), update)


def add(known: Update, update: Update) -> Update:
    """Known + update, in float32."""
    return jax.tree.map(lambda h, x: h + x.astype(jnp.float32), known, update)


def finite_or(checked: Update, new: PyTree, old: PyTree) -> PyTree:
    """`new` where all that is checked is finite, else `old`."""
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(checked)] or [True]).all()
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def check_participation(participation: object, *, who: str) -> None:
    """Raise `ValueError` unless a share of clients is above 0 and at most 1."""
    number = isinstance(participation, int | float) and not isinstance(participation, bool)
    if not number or not 0 < participation <= 1:  # type: ignore[operator]
        raise ValueError(
            f"{who}: participation must be above 0 and at most 1, got {participation!r}."
        )
