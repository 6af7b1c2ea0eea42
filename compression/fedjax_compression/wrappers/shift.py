"""Codecs that track a shift h at both ends and code the difference to it: EF21 and DIANA."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from ..contract import Compressor, Like, Memory, Payload, State, Update, check_inner
from ..ops.flat import check_floating


class Shifted(NamedTuple):
    """State of a sender.

    Attributes:
        known: The shift h: `rate` times the sum of the decoded messages so far, in float32.
        inner: State of the inner codec.

    """

    known: Update
    inner: State


def shifted(
    compressor: Compressor,
    *,
    rate: float | int,
    received: Callable[[Update, Update, Update], Update],
    who: str,
) -> Compressor:
    """Send C(x - h), and move h by `rate` times the decoded message at the sender and the receiver.

    The receiver's h is the weighted mean of all senders' h. It moves by `rate` times `share` times
    the mean of the decoded messages, as the senders that are not in that mean did not move.
    `received(before, after, mean)` returns the received update from the receiver's h before and
    after the round and that mean. An update or a mean that is not finite leaves h unchanged. What
    is known of the update is given to the inner codec, which codes the difference.

    Raises `TypeError` and `ValueError` as `ef21` does.
    """
    check_inner(
        compressor,
        who=who,
        remedy=f"give {who} the codec inside it, as one memory is enough.",
        passes_given=True,
    )
    of_round = compressor.given

    def init(like: Like) -> State:
        return Shifted(zeros(like, who=who), compressor.init(like))

    def encode(key: Key[Array, ""], update: Update, state: Shifted) -> tuple[Payload, State]:
        offered = difference(update, state.known)
        payload, inner = compressor.encode(key, offered, state.inner)
        known = add(state.known, scaled(rate, compressor.decode(payload, update)))
        return payload, finite_or(known, Shifted(known, inner), state)

    def receive(
        mean: Update, known: Memory, share: Float[Array, ""] | float
    ) -> tuple[Update, Memory]:
        moved = add(known, scaled(rate * share, mean))
        return received(known, moved, mean), finite_or(moved, moved, known)

    def given(update: Update) -> Compressor:
        assert of_round is not None  # noqa: S101 - as only then it is in the codec
        return shifted(of_round(update), rate=rate, received=received, who=who)

    return Compressor(
        init,
        encode,
        compressor.decode,
        lambda like: zeros(like, who=who),
        receive,
        given=given if of_round else None,
    )


def zeros(like: Like, *, who: str) -> Update:
    """The initial h, in float32. Raises `TypeError` for a leaf that is not floating-point."""
    check_floating(like, who=who)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like)


def difference(update: Update, known: Update) -> Update:
    """`update - known` in the update's dtypes, so that the message does not grow."""
    return jax.tree.map(lambda x, h: (x.astype(jnp.float32) - h).astype(x.dtype), update, known)


def scaled(factor: Float[Array, ""] | float | int, update: Update) -> Update:
    """`factor * update`, in float32."""
    return jax.tree.map(lambda leaf: factor * leaf.astype(jnp.float32), update)


def add(known: Update, update: Update) -> Update:
    """`known + update`, in float32."""
    return jax.tree.map(lambda h, x: h + x.astype(jnp.float32), known, update)


def finite_or(checked: Update, new: PyTree, old: PyTree) -> PyTree:
    """`new` if all entries of `checked` are finite, else `old`."""
    finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(checked)] or [True]).all()
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
