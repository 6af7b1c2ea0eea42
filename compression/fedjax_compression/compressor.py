"""What a compressor is, and how compressors compose."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key, PyTree

from .symbols import is_symbols

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


class Chained(NamedTuple):
    """What two compressors in a row send."""

    kept: list[Any]
    """The leaves of the first payload that are not floating-point, as they are."""
    coded: Payload
    """The floating-point leaves of the first payload, coded by the second compressor."""


def identity() -> Compressor:
    """Send every entry as it is, in its own dtype. Exact."""
    return Compressor(
        init=lambda like: (),
        encode=lambda key, update, state: (update, state),
        decode=lambda payload, like: payload,
    )


def chain(*compressors: Compressor) -> Compressor:
    """Each compressor codes the floating-point leaves of what the one before it sends.

    `chain(top_k(fraction=0.01), stochastic_quantize(bits=4))` sends the support as `top_k` codes
    it and the values in four bits. Leaves that are not floating-point (supports, packed codes,
    seeds) pass through. `chain()` is the identity.
    Raises `ValueError` where one of several has a receiver with a memory.
    """
    if not compressors:
        return identity()
    *before, last = compressors
    for compressor in compressors if before else ():
        check_no_receiver_memory(compressor, who="chain")
    for compressor in reversed(before):
        last = _then(compressor, last)
    return last


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


def _then(first: Compressor, second: Compressor) -> Compressor:
    def init(like: Like) -> State:
        values, _, _ = _split(payload_structure(first, like))
        return first.init(like), second.init(values)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Chained, State]:
        first_key, second_key = jr.split(key)
        payload, first_state = first.encode(first_key, update, state[0])
        values, kept, _ = _split(payload)
        coded, second_state = second.encode(second_key, values, state[1])
        return Chained(kept, coded), (first_state, second_state)

    def decode(payload: Chained, like: Like) -> Update:
        values, _, merge = _split(payload_structure(first, like))
        return first.decode(merge(second.decode(payload.coded, values), payload.kept), like)

    return Compressor(init, encode, decode)


def _split(payload: Payload) -> tuple[list[Any], list[Any], Callable[[list, list], Payload]]:
    """Floating-point leaves, the others, and the function that puts them together again."""
    leaves, treedef = jax.tree.flatten(payload, is_leaf=is_symbols)
    floating = [
        not is_symbols(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    ]
    values = [leaf for leaf, is_value in zip(leaves, floating, strict=True) if is_value]
    kept = [leaf for leaf, is_value in zip(leaves, floating, strict=True) if not is_value]

    def merge(values: list[Any], kept: list[Any]) -> Payload:
        value, other = iter(values), iter(kept)
        merged = [next(value if is_value else other) for is_value in floating]
        return jax.tree.unflatten(treedef, merged)

    return values, kept, merge
