"""Codecs whose sender can be told to send something else."""

from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

import jax
from fedjax_compression import Compressor
from fedjax_compression.checks import check_compressor
from jaxtyping import Array, Key, PyTree


class Tap(NamedTuple):
    """State of an `attackable` sender.

    Attributes:
        inner: State of the codec.
        order: What to encode in place of an update: a `jax.tree_util.Partial`
            `(update, last) -> update`, or `()` for the update itself, which is what is kept between
            rounds; `last` is what an `informed` codec is given, else `()`.
        seen: What a receiver decodes from the message, where there was an order; else `()`.

    """

    inner: PyTree
    order: Any = ()
    seen: PyTree = ()


def attackable(codec: Compressor, *, informed: bool = False) -> Compressor:
    """Let `simulate` make clients that use a codec malicious.

    Without an attack its messages, states and numbers are the codec's.

    Args:
        codec: The uplink's codec.
        informed: Whether malicious clients read the last aggregated update (`Attack.informed`). The
            codec is then `given` it as `preconditioned` is: methods that average updates send it
            along, at 4 bits per entry, and others refuse the codec. A real client would keep the
            last model and subtract. Default: False.

    Returns:
        The `Compressor`, with the codec's receiver.

    Raises:
        TypeError: For anything but a `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import identity
        >>> from fedjax_llm.attacks import attackable
        >>> codec, update = attackable(identity()), jnp.array([1.0, -2.0])
        >>> codec.encode(jax.random.key(0), update, codec.init(update))[0].tolist()
        [1.0, -2.0]

    """
    check_compressor(codec, who="attackable", name="codec")

    return _tapped(codec, informed, ())


def _tapped(codec: Compressor, informed: bool, last: PyTree) -> Compressor:
    def encode(key: Key[Array, ""], update: PyTree, tap: Tap) -> tuple[PyTree, Tap]:
        if tap.order == ():
            payload, inner = codec.encode(key, update, tap.inner)
            return payload, Tap(inner)
        sent = tap.order(update, last)
        payload, inner = codec.encode(key, sent, tap.inner)
        return payload, Tap(inner, tap.order, codec.decode(payload, update))

    def given(known: PyTree) -> Compressor:
        inner = codec.given(known) if codec.given else codec
        return _tapped(inner, False, known)

    return codec._replace(
        init=lambda like: Tap(codec.init(like)),
        encode=encode,
        given=given if informed or codec.given else None,
    )


def map_taps(one: Callable[[int, Tap], Tap], state: PyTree) -> PyTree:
    """Replace every `Tap` in a client state; `one` gets its number among them, and the tap."""
    leaves, structure = jax.tree.flatten(state, is_leaf=_is_tap)
    numbers = count()
    new = [one(next(numbers), leaf) if _is_tap(leaf) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, new)


def taps(state: PyTree) -> list[Tap]:
    """Every `Tap` in a client state."""
    return [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_tap) if _is_tap(leaf)]


def _is_tap(node: Any) -> bool:
    return isinstance(node, Tap)
