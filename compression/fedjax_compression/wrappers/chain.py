"""Compressors in a row, and the compressor that changes nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from ..contract import (
    Compressor,
    Like,
    Payload,
    State,
    Update,
    check_no_receiver_memory,
    payload_structure,
)
from ..wire.leaves import is_symbols


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
