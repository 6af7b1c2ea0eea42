"""Downlinks that change every client's base: factors are sent, and their product is added to the
client's kernels.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from fedjax_compression import Prefix, identity
from fedjax_compression.checks import check_number
from jaxtyping import Array, Float, PyTree

from ...algorithm import Gather
from ...client_training import Params
from ..shared.base_changes import kernel_tree
from ..shared.channel import Channel, ChannelState, Message, channel
from ..shared.trees import choose
from .client_ranks import from_prefix, to_prefix
from .pairs import Pair, named_pairs, product

Change: TypeAlias = PyTree
"""`list[Pair]`, or a `Prefix` of its factors."""


class BaseMessage(NamedTuple):
    """Content of the downlink.

    Attributes:
        params: The trainable parameters, uncompressed; empty where they are not sent.
        change: Factors of the change to every client's kernels, without the scale; a `Prefix` of
            them where only some of their ranks are sent.

    """

    params: PyTree
    change: Change


class BaseState(NamedTuple):
    """Base of a client or of the server.

    Attributes:
        base: Sum of the changes so far, in float32: nested as `frozen`, kernels only.
        downlink: State of the downlink's channel.

    """

    base: PyTree
    downlink: ChannelState


class BaseChannel(NamedTuple):
    """How changes to the base are sent and applied.

    Attributes:
        channel: Channel of `BaseMessage`s.
        nothing: A zero change, as a message has it.
        scaled: `(pairs) -> base`: what pairs add to the kernels.
        receive: `(message, state) -> (content, state)`: decode, and add the change to the base.

    """

    channel: Channel
    nothing: Change
    scaled: Callable[[list[Pair]], PyTree]
    receive: Callable[[Message, BaseState], tuple[BaseMessage, BaseState]]


def base_channel(
    like: Params,
    *,
    sent: PyTree,
    rank: Callable[[int], int],
    scale: float | int,
    who: str,
    some_ranks: bool = False,
) -> BaseChannel:
    """Build a channel of changes to the base; each message costs 4 more bytes for its number.

    A client that missed a message no longer has the server's base, and no later message repairs
    it: from then on it receives NaNs.

    Args:
        like: Structure of the LoRA parameters.
        sent: Structure of the parameters that are sent beside a change.
        rank: `(LoRA's rank) -> rank of a change`.
        scale: Factor of the adapter's products, alpha / rank.
        who: Name of the method, for error messages.
        some_ranks: Whether a message has the first ranks of a change alone, as a `Prefix`.

    Raises:
        ValueError: If `scale` is not a finite number above 0, or a pair is not beside a kernel.

    """
    check_number(scale, who=who, name="scale", above=0)
    named = named_pairs(like, who=who)
    try:
        kernel_tree((path, None) for path, _ in named)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    zeros = [
        Pair(
            jnp.zeros((*a.shape[:-1], rank(a.shape[-1])), jnp.float32),
            jnp.zeros((*b.shape[:-2], rank(b.shape[-2]), b.shape[-1]), jnp.float32),
        )
        for _, (a, b) in named
    ]
    nothing = to_prefix(zeros, jnp.zeros((), jnp.int32)) if some_ranks else zeros
    down = channel(identity(), BaseMessage(sent, nothing), every_message=True)

    def scaled(pairs: list[Pair]) -> PyTree:
        return kernel_tree(
            (path, scale * product(pair)) for (path, _), pair in zip(named, pairs, strict=True)
        )

    def receive(message: Message, state: BaseState) -> tuple[BaseMessage, BaseState]:
        received, end = down.receive(message, state.downlink)
        arrived = end.messages != state.downlink.messages
        change = received.change
        pairs = from_prefix(change, zeros).pairs if isinstance(change, Prefix) else change
        base = jax.tree.map(jnp.add, state.base, scaled(pairs))
        return received, BaseState(choose(arrived, base, state.base), end)

    return BaseChannel(down, nothing, scaled, receive)


def with_cohort_check(gather: Gather, clients: int, *, who: str) -> Gather:
    """A gather that refuses a cohort of another size than the messages have room for."""

    def empty(state: PyTree, cohort: int) -> PyTree:
        if cohort != clients:
            raise ValueError(
                f"{who}: cohort: expected {clients} clients, got {cohort}; build {who} with "
                f"clients={cohort}."
            )
        return gather.empty(state, cohort)

    return gather._replace(empty=empty)


def zero_change(change: Change) -> Change:
    """The change after it was sent: zeros, so that it is added only once."""
    return jax.tree.map(jnp.zeros_like, change)


def column(values: Float[Array, " clients"], like: Array) -> Float[Array, "clients ..."]:
    """One number for each row of an array, shaped to broadcast against it."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
