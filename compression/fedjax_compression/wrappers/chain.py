"""Composition of codecs, and the identity codec."""

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
    check_compressor,
    check_inner,
    payload_structure,
)
from ..wire.leaves import is_symbols


class Chained(NamedTuple):
    """Payload of two codecs in sequence.

    Attributes:
        kept: Leaves of the first codec's payload that are not floating-point, unchanged.
        coded: Payload of the second codec, for the floating-point leaves of the first payload.

    """

    kept: list[Any]
    coded: Payload


def identity() -> Compressor:
    """Send every entry unchanged, in its own dtype.

    Exact and linear. Payload: the update. Stateless. Accepts integer and boolean leaves too.

    Returns:
        The codec.

    Example:
        >>> import jax
        >>> from fedjax_compression import identity, payload_structure, wire
        >>> like = {"w": jax.ShapeDtypeStruct((100,), "bfloat16")}
        >>> wire.nbytes(payload_structure(identity(), like))  # 12 + 100 * 2
        212

    """
    return Compressor(
        init=lambda like: (),
        encode=lambda key, update, state: (update, state),
        decode=lambda payload, like: payload,
    )


def chain(*compressors: Compressor) -> Compressor:
    """Compose codecs: each codes the floating-point leaves of the payload of the one before.

    `chain(top_k(fraction=0.01), stochastic_quantize(bits=4))` sends the support as `top_k` codes
    it, and the values in four bits. Other leaves (supports, packed codes, seeds) pass through
    unchanged. State: one state per codec.

    Args:
        compressors: Codecs, each as an argument of its own, from the first to act on the update to
            the last. `chain()` is `identity()`, and `chain(c)` is `c`.

    Returns:
        The codec.

    Raises:
        TypeError: For an argument that is not a `Compressor`, such as a list of codecs.
        ValueError: For several codecs of which one has receiver memory (`ef21`, `diana`).

    Example:
        >>> import jax
        >>> from fedjax_compression import chain, payload_structure, random_k, wire
        >>> from fedjax_compression import stochastic_quantize
        >>> c = chain(random_k(fraction=0.5), stochastic_quantize(bits=4))
        >>> like = jax.ShapeDtypeStruct((1000,), "float32")
        >>> wire.nbytes(payload_structure(c, like))  # 500 values of 4 bits, 24 bytes besides
        274

    """
    for compressor in compressors:
        check_compressor(compressor, who="chain", name="compressors")
    if not compressors:
        return identity()
    *before, last = compressors
    for compressor in compressors if before else ():
        check_inner(compressor, who="chain", name="compressors")
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
    """Return the floating-point leaves, the others, and a function that merges both again."""
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
