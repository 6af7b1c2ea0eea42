"""Messages from the server to all clients, through a codec."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor, has_receiver_memory
from fedjax_compression.checks import check_compressor
from jaxtyping import Array, Key, PyTree, UInt32

from ...precision import cast
from .trees import choose


class Message(NamedTuple):
    """Payload of a pytree that is sent to all clients.

    Attributes:
        payload: The pytree as the codec encodes it.
        number: Number of the message, from 1, uint32, if messages are numbered; else empty.

    """

    payload: PyTree
    number: PyTree[UInt32[Array, ""]]


class ChannelState(NamedTuple):
    """State of the sender or of one receiver of a `Channel`.

    Attributes:
        memory: Codec state of a sender, or receiver memory of a receiver.
        messages: Number of the last message, uint32: of a sender, if messages are numbered; of a
            receiver, if it must receive every message; else empty.

    """

    memory: PyTree
    messages: PyTree[UInt32[Array, ""]]


class CodecState(NamedTuple):
    """State of a client that persists only its codec state.

    Attributes:
        uplink: State of the uplink's sender.
        downlink: State of the downlink's receiver.

    """

    uplink: PyTree
    downlink: ChannelState


def keep_uplink(old: Any, new: Any) -> Any:
    """`FederatedAlgorithm.uncounted` of client states with a field `uplink`, the sender's state.

    The sender's state says what the receiver has, so it moves only with a message that counted.
    Everything else is that of the new state.
    """
    return new._replace(uplink=old.uplink)


class Channel(NamedTuple):
    """Functions that send one pytree to all clients.

    Attributes:
        sender: `(tree) -> channel_state` of the server before the first message.
        receiver: `(tree) -> channel_state` of a client before the first message.
        send: `(key, tree, channel_state) -> (message, channel_state)`, at the server: the tree in
            the dtypes of the channel's structure.
        receive: `(message, channel_state) -> (tree, channel_state)`, at a client.
        every_message: Whether a client must receive every message: a method's
            `FederatedAlgorithm.every_message`.

    """

    sender: Callable[[PyTree], ChannelState]
    receiver: Callable[[PyTree], ChannelState]
    send: Callable[[Key[Array, ""], PyTree, ChannelState], tuple[Message, ChannelState]]
    receive: Callable[[Message, ChannelState], tuple[PyTree, ChannelState]]
    every_message: bool


def channel(
    downlink: Compressor,
    like: PyTree,
    *,
    every_message: bool | None = None,
    numbered: bool = False,
) -> Channel:
    """Build the channel that sends pytrees of one structure through a codec.

    Numbered messages carry their number, from 1, in 4 bytes: with one message in each round, the
    number of the round. If a client must receive every message, they are numbered, and a client
    that missed one receives NaNs from then on, while its state stays as it was.

    Args:
        downlink: The codec.
        like: Structure of the pytrees: arrays or ShapeDtypeStructs.
        every_message: Whether a client must receive every message. Default: if the codec's
            receiver keeps a memory.
        numbered: Whether messages are numbered in any case. Default: False.

    Returns:
        The channel.

    Raises:
        TypeError: For a `downlink` that is not a `Compressor`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fedjax_compression import codec
        >>> from fedjax_llm.algorithms.shared import channel
        >>> tree = jnp.array([1.0, -3.0])
        >>> down = channel(codec("ef21(identity())"), tree)
        >>> sender, receiver = down.sender(tree), down.receiver(tree)
        >>> for key in jax.random.split(jax.random.key(0)):
        ...     message, sender = down.send(key, tree, sender)
        >>> int(message.number)
        2
        >>> received, _ = down.receive(message, receiver)  # it missed the first message
        >>> received.tolist()
        [nan, nan]

    """
    check_compressor(downlink, who="channel", name="downlink")
    in_order = has_receiver_memory(downlink) if every_message is None else every_message

    def first(counts: bool) -> PyTree[UInt32[Array, ""]]:
        return jnp.zeros((), jnp.uint32) if counts else ()

    def send(
        key: Key[Array, ""], tree: PyTree, state: ChannelState
    ) -> tuple[Message, ChannelState]:
        payload, memory = downlink.encode(key, cast(tree, like), state.memory)
        messages = jax.tree.map(lambda last: last + 1, state.messages)
        return Message(payload, messages), ChannelState(memory, messages)

    def receive(sent: Message, state: ChannelState) -> tuple[PyTree, ChannelState]:
        decoded = downlink.decode(sent.payload, like)
        received, memory = downlink.receive(decoded, state.memory, 1.0)
        received = cast(received, like)
        if not in_order:
            return received, state
        in_turn = sent.number == state.messages + 1

        def if_in_turn(leaf: Array) -> Array:
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.where(in_turn, leaf, jnp.nan) if floating else leaf

        return (
            jax.tree.map(if_in_turn, received),
            choose(in_turn, ChannelState(memory, sent.number), state),
        )

    return Channel(
        lambda tree: ChannelState(downlink.init(tree), first(numbered or in_order)),
        lambda tree: ChannelState(downlink.receiver(tree), first(in_order)),
        send,
        receive,
        in_order,
    )
