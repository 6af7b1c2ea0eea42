"""Messages from the server to all clients, through a codec."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor, has_receiver_memory
from jaxtyping import Array, Key, PyTree, UInt32

from .trees import cast, choose


class Message(NamedTuple):
    """A pytree on its way to all clients."""

    payload: PyTree
    """As the downlink codes it."""
    number: PyTree[UInt32[Array, ""]]
    """From 1, where receivers keep a memory."""


class ChannelState(NamedTuple):
    """What one end of a link keeps."""

    memory: PyTree
    messages: PyTree[UInt32[Array, ""]]
    """Those sent or taken in so far, where receivers keep a memory."""


class CodecState(NamedTuple):
    """What a client keeps that keeps nothing but its ends of the messages' codecs."""

    uplink: PyTree
    downlink: ChannelState


class Channel(NamedTuple):
    """How a pytree comes down, with what its ends keep."""

    sender: Callable[[PyTree], ChannelState]
    receiver: Callable[[PyTree], ChannelState]
    send: Callable[[Key[Array, ""], PyTree, ChannelState], tuple[Message, ChannelState]]
    receive: Callable[[Message, ChannelState], tuple[PyTree, ChannelState]]


def channel(downlink: Compressor, like: PyTree, *, every_message: bool | None = None) -> Channel:
    """Messages through a codec, all of the structure of `like`.

    Where its receiver keeps a memory, or with `every_message`, they are numbered, in four bytes:
    a client that missed one receives NaNs ever after, and remembers none of them.
    """
    numbered = has_receiver_memory(downlink) if every_message is None else every_message

    def none_yet() -> PyTree[UInt32[Array, ""]]:
        return jnp.zeros((), jnp.uint32) if numbered else ()

    def send(key: Key[Array, ""], tree: PyTree, end: ChannelState) -> tuple[Message, ChannelState]:
        payload, memory = downlink.encode(key, tree, end.memory)
        messages = jax.tree.map(lambda sent: sent + 1, end.messages)
        return Message(payload, messages), ChannelState(memory, messages)

    def receive(sent: Message, end: ChannelState) -> tuple[PyTree, ChannelState]:
        decoded = downlink.decode(sent.payload, like)
        received, memory = downlink.receive(decoded, end.memory)
        received = cast(received, like)
        if not numbered:
            return received, end
        in_turn = sent.number == end.messages + 1
        return (
            jax.tree.map(lambda r: jnp.where(in_turn, r, jnp.nan), received),
            choose(in_turn, ChannelState(memory, sent.number), end),
        )

    return Channel(
        lambda tree: ChannelState(downlink.init(tree), none_yet()),
        lambda tree: ChannelState(downlink.receiver(tree), none_yet()),
        send,
        receive,
    )
