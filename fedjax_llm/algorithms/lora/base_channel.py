"""Messages that change the base of every client: factors come down and go into its kernels."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression import identity
from jaxtyping import Array, Float, PyTree

from ...algorithm import Gather
from ...client_training import Params
from ..shared.base_changes import kernel_tree
from ..shared.channel import Channel, ChannelState, Message, channel
from ..shared.trees import choose
from .pairs import Pair, named_pairs, product


class BaseMessage(NamedTuple):
    """What comes down."""

    params: PyTree
    """The trainable parameters, as they are, where they travel."""
    change: list[Pair]
    """Factors of what every client adds to its kernels, before the scale."""


class Based(NamedTuple):
    """What a client, or the server, holds beside `frozen`."""

    base: PyTree
    """What was added to kernels so far, where `frozen` has them; in float32."""
    downlink: ChannelState


class BaseChannel(NamedTuple):
    """How changes of the base come down."""

    channel: Channel
    nothing: list[Pair]
    """A change of zero, of the rank that messages have."""
    scaled: Callable[[list[Pair]], PyTree]
    """`(pairs) -> what they add to kernels`."""
    receive: Callable[[Message, Based], tuple[BaseMessage, Based]]
    """`(sent, held) -> (received, held)`, the base changed."""


def base_channel(
    like: Params, *, sent: PyTree, rank: Callable[[int], int], scale: float | int, who: str
) -> BaseChannel:
    """Messages in four numbered bytes more: a client that missed one has another base than the
    server, which no later message mends; it receives NaNs ever after.

    `sent` is the structure of what else comes down, `rank` the rank of a change, by that of LoRA.
    Raises `ValueError` unless scale is above 0 and finite, and where LoRA is not beside a kernel.
    """
    if isinstance(scale, bool) or not 0 < scale < float("inf"):
        raise ValueError(f"{who}: scale must be above 0 and finite, got {scale!r}.")
    named = named_pairs(like, who=who)
    try:
        kernel_tree((path, None) for path, _ in named)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    nothing = [
        Pair(
            jnp.zeros((*a.shape[:-1], rank(a.shape[-1])), jnp.float32),
            jnp.zeros((*b.shape[:-2], rank(b.shape[-2]), b.shape[-1]), jnp.float32),
        )
        for _, (a, b) in named
    ]
    down = channel(identity(), BaseMessage(sent, nothing), every_message=True)

    def scaled(pairs: list[Pair]) -> PyTree:
        return kernel_tree(
            (path, scale * product(pair)) for (path, _), pair in zip(named, pairs, strict=True)
        )

    def receive(message: Message, held: Based) -> tuple[BaseMessage, Based]:
        received, end = down.receive(message, held.downlink)
        arrived = end.messages != held.downlink.messages
        base = jax.tree.map(jnp.add, held.base, scaled(received.change))
        return received, Based(choose(arrived, base, held.base), end)

    return BaseChannel(down, nothing, scaled, receive)


def check_clients(clients: int, *, who: str) -> None:
    """Raise `ValueError` unless a cohort's size is an integer of at least 1."""
    if type(clients) is not int or clients < 1:
        raise ValueError(f"{who}: clients must be an integer of at least 1, got {clients!r}.")


def of_cohort(gather: Gather, clients: int, *, who: str) -> Gather:
    """The same, which refuses a cohort of another size than what messages have room for."""

    def empty(state: PyTree, found: int) -> PyTree:
        if found != clients:
            raise ValueError(f"{who}: expected a cohort of {clients} clients, got {found}.")
        return gather.empty(state, found)

    return gather._replace(empty=empty)


def zero(change: list[Pair]) -> list[Pair]:
    """Nothing, in the place of a change that was sent."""
    return jax.tree.map(jnp.zeros_like, change)


def column(values: Float[Array, " clients"], like: Array) -> Float[Array, "clients ..."]:
    """One number for each row of an array."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
