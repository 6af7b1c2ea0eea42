"""What algorithms share where clients and server meet: messages down, and the fold of those up."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, has_receiver_memory
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt32

from ..aggregate import Aggregator, leave_out_failed
from ..algorithm import Gather, ServerInfo, ServerState, Uplink
from ..local import ClientInfo, Params


class Message(NamedTuple):
    """A pytree on its way to all clients."""

    payload: PyTree
    """As the downlink codes it."""
    number: PyTree[UInt32[Array, ""]]
    """From 1, where receivers keep a memory."""


class End(NamedTuple):
    """What one end of a link keeps."""

    memory: PyTree
    messages: PyTree[UInt32[Array, ""]]
    """Those sent or taken in so far, where receivers keep a memory."""


class Ends(NamedTuple):
    """What a client keeps that keeps nothing but its ends of the messages' codecs."""

    uplink: PyTree
    downlink: End


class Link(NamedTuple):
    """How a pytree comes down, with what its ends keep."""

    sender: Callable[[PyTree], End]
    receiver: Callable[[PyTree], End]
    send: Callable[[Key[Array, ""], PyTree, End], tuple[Message, End]]
    receive: Callable[[Message, End], tuple[PyTree, End]]


def link(downlink: Compressor, like: PyTree, *, every_message: bool | None = None) -> Link:
    """Messages through a codec, all of the structure of `like`.

    Where its receiver keeps a memory, or with `every_message`, they are numbered, in four bytes:
    a client that missed one receives NaNs ever after, and remembers none of them.
    """
    numbered = has_receiver_memory(downlink) if every_message is None else every_message

    def none_yet() -> PyTree[UInt32[Array, ""]]:
        return jnp.zeros((), jnp.uint32) if numbered else ()

    def send(key: Key[Array, ""], tree: PyTree, end: End) -> tuple[Message, End]:
        payload, memory = downlink.encode(key, tree, end.memory)
        messages = jax.tree.map(lambda sent: sent + 1, end.messages)
        return Message(payload, messages), End(memory, messages)

    def receive(sent: Message, end: End) -> tuple[PyTree, End]:
        decoded = downlink.decode(sent.payload, like)
        received, memory = downlink.receive(decoded, end.memory)
        received = cast(received, like)
        if not numbered:
            return received, end
        in_turn = sent.number == end.messages + 1
        return (
            jax.tree.map(lambda r: jnp.where(in_turn, r, jnp.nan), received),
            choose(in_turn, End(memory, sent.number), end),
        )

    return Link(
        lambda tree: End(downlink.init(tree), none_yet()),
        lambda tree: End(downlink.receiver(tree), none_yet()),
        send,
        receive,
    )


class Folded(NamedTuple):
    """What the server holds of the clients so far."""

    aggregate: PyTree
    accepted: Int[Array, ""]
    failed: Int[Array, ""]


def fold(
    decode: Callable[[ServerState, Uplink], PyTree], aggregate: Aggregator, like: PyTree
) -> Gather:
    """Decode each uplink to something like `like`, leave out what is not finite, and aggregate."""

    def empty(state: ServerState, clients: int) -> Folded:
        none = jnp.zeros((), jnp.int32)
        return Folded(aggregate.empty(like, clients), none, none)

    def add(
        state: ServerState, partial: Folded, uplinks: Uplink, weights: Float[Array, " clients"]
    ) -> Folded:
        decoded = jax.vmap(lambda uplink: decode(state, uplink))(uplinks)
        updates, weights, failed = leave_out_failed(decoded, weights)
        return Folded(
            aggregate.add(partial.aggregate, updates, weights),
            partial.accepted + (weights > 0).sum(dtype=jnp.int32),
            partial.failed + failed.sum(dtype=jnp.int32),
        )

    def merge(one: Folded, other: Folded) -> Folded:
        return Folded(
            aggregate.merge(one.aggregate, other.aggregate),
            one.accepted + other.accepted,
            one.failed + other.failed,
        )

    return Gather(empty, add, merge)


def concluded(
    partial: Folded, new: ServerState, old: ServerState, update: PyTree
) -> tuple[ServerState, ServerInfo]:
    """The server's new state, or the old one where no client's update was accepted."""
    state = choose(partial.accepted > 0, new, old)
    return state, ServerInfo(partial.accepted, partial.failed, optax.tree.norm(update))


def stepped(
    optimizer: optax.GradientTransformation, params: Params, memory: optax.OptState, update: PyTree
) -> tuple[Params, optax.OptState]:
    """The parameters after a step of an optimizer that takes minus the update for a gradient."""
    gradient = jax.tree.map(lambda u, p: -u.astype(p.dtype), update, params)
    step, memory = optimizer.update(gradient, memory, params)
    return optax.apply_updates(params, step), memory


def has_failed(info: ClientInfo, *made: PyTree) -> Bool[Array, ""]:
    """Whether a client's loss, or anything that it made, is not finite."""
    return ~is_finite((info.loss, made))


def is_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether no entry is a NaN or an infinity."""
    leaves = jax.tree.leaves(tree)
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.array(True)]).all()


def nan_where(failed: Bool[Array, ""], tree: PyTree) -> PyTree:
    """What a client sends that has failed, so that the server sees it: NaNs."""
    return jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), tree)


def choose(condition: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """One of two pytrees."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def cast(tree: PyTree, like: PyTree) -> PyTree:
    """A pytree in the dtypes of another."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def wide_zeros(like: PyTree) -> PyTree[Float[Array, "..."]]:
    """Zeros in float32, in the shapes of a pytree."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)


def check_structure(params: Params, like: Params, *, who: str) -> None:
    """Raise `ValueError` where parameters have not the structure, shapes and dtypes of `like`."""
    got, expected = (
        [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, like))
    )
    for g, e in zip(got, expected, strict=False):
        if g != e:
            raise ValueError(f"{who}: expected parameters like {e}, got {g}.")
    if len(got) != len(expected):
        raise ValueError(f"{who}: expected {len(expected)} parameters, got {len(got)}.")


def check_no_memory(uplink: Compressor, *, who: str, why: str) -> None:
    """Raise `ValueError` for a codec whose receiver keeps a memory."""
    if has_receiver_memory(uplink):
        raise ValueError(
            f"{who}: expected an uplink whose receiver keeps no memory, as {why}; "
            "got one that does, such as ef21 or diana."
        )


def check_keeps_nothing(codec: Compressor, *, name: str, who: str) -> None:
    """Raise `ValueError` for a codec with a memory at either end."""
    probe = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    kept = jax.tree.leaves(jax.eval_shape(lambda: codec.init(probe)))
    if kept or has_receiver_memory(codec):
        raise ValueError(
            f"{who}: expected a codec without a memory on the {name}, as each message is of other "
            "text than the one before, got one with: error_feedback, ef21, diana or the like."
        )


def check_positive(value: Any, *, name: str, who: str) -> None:
    """Raise `ValueError` unless a number is above 0 and finite."""
    if isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{who}: {name} must be above 0 and finite, got {value!r}.")
