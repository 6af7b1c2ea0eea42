"""What a compressor is, and how compressors compose."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key, PyTree

Update: TypeAlias = PyTree
"""A pytree of floating-point arrays."""


Like: TypeAlias = PyTree
"""The structure of an update or payload: arrays or `jax.ShapeDtypeStruct`s."""


Payload: TypeAlias = PyTree


State: TypeAlias = PyTree


Memory: TypeAlias = PyTree


def _no_memory(like: Like) -> Memory:
    return ()


def _as_it_is(mean: Update, memory: Memory) -> tuple[Update, Memory]:
    return mean, memory


class Compressor(NamedTuple):
    """Three pure functions that turn an update into a payload and back, and two for a receiver
    with a memory, which most codecs do without.

    All of them trace under `jit` and `vmap`, and every shape is static. `encode` packs into whole
    bytes inside the program, so that the payload's arrays are what `wire.dumps` writes.

    Contract: `decode(encode(key, update, init(update))[0], update)` has the structure, shapes and
    dtypes of `update`. An update with a NaN or an infinity decodes to at least one non-finite
    entry, and leaves the state finite: a failed update is seen, and does not spread.

    A receiver applies `receive` once a round, to the weighted mean of what it decoded, or to the
    one message that it decoded. A mean that is not finite leaves the memory as it was. Memory is
    for the outermost codec alone: wrappers refuse a codec that has one.
    """

    init: Callable[[Like], State]
    """`(like) -> state`: what a sender keeps from one message to the next."""
    encode: Callable[[Key[Array, ""], Update, State], tuple[Payload, State]]
    """`(key, update, state) -> (payload, state)`."""
    decode: Callable[[Payload, Like], Update]
    """`(payload, like) -> update`, with the structure and dtypes of `like`."""
    receiver: Callable[[Like], Memory] = _no_memory
    """`(like) -> memory`: what a receiver keeps from one round to the next."""
    receive: Callable[[Update, Memory], tuple[Update, Memory]] = _as_it_is
    """`(mean, memory) -> (update, memory)`: what a mean of decoded updates stands for."""


def payload_structure(compressor: Compressor, like: Like) -> Payload:
    """The payload of `like` as ShapeDtypeStructs, without computing it: what `wire.loads` needs."""

    def first_payload(key: Key[Array, ""], update: Update) -> Payload:
        return compressor.encode(key, update, compressor.init(update))[0]

    return jax.eval_shape(first_payload, jax.eval_shape(lambda: jr.key(0)), like)


def has_receiver_memory(compressor: Compressor) -> bool:
    """Whether a receiver keeps anything from one round to the next."""
    like = jax.ShapeDtypeStruct((1,), jnp.float32)
    return bool(jax.tree.leaves(jax.eval_shape(lambda: compressor.receiver(like))))


def check_no_receiver_memory(compressor: Compressor, *, who: str) -> None:
    """Raise `ValueError` where a receiver keeps anything; `who` is the wrapper that asks."""
    if has_receiver_memory(compressor):
        raise ValueError(
            f"{who}: expected a codec whose receiver keeps no memory; memory at both ends goes "
            f"outermost: ef21({who}(...)) or diana({who}(...), rate=...)."
        )
