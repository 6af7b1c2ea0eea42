"""SPRY (Panchal et al. 2024, arXiv:2405.15551), communicating each iteration."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Float, Integer, Key, PyTree, UInt16

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import check_structure
from ..shared.failures import nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from ..shared.trees import float32_zeros
from .slopes import Seed, along_all, forward, perturbation


class SpryState(NamedTuple):
    """What the server keeps."""

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState


class SpryUplink(NamedTuple):
    """What a client sends."""

    owned: UInt16[Array, ""]
    """The slice of tensors that was its own in this round."""
    seed: Seed
    """Of its directions."""
    slopes: Float[Array, " draws"]


class Share(NamedTuple):
    """What an uplink says of the gradient."""

    gradient: PyTree[Float[Array, "..."]]
    """The estimate, zero outside the slice."""
    owned: Float[Array, " slices"]
    """One for the slice."""


def spry(
    loss: Loss,
    like: Params,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
    downlink: Compressor | None = None,
    slices: int | None = None,
    draws: int = 1,
) -> FederatedAlgorithm:
    """A client differentiates forwards along directions within its slice of the tensors alone, and
    the server steps along what the owners of each slice found: fewer dimensions, less noise.

    A round is a step: the slope is that of the mean loss over all targets of the client's batches,
    by `jax.jvp`. Tensors are dealt to `slices` in turn, one a slice unless given; a client draws
    its slice, and its directions, from its key. Up: the slice, 2 bytes, the seed of the directions,
    8, and `draws` slopes, 4 each: nothing that grows with the model. Down: the parameters, through
    `downlink`.
    Exact: the server draws the same directions. For a slice's owners the estimate, the mean of
    slope * z, is unbiased for the slice of their gradient, with a second moment of d_s + 2 times
    its square for one draw in a slice of d_s entries. A slice's gradient is the mean over its
    owners, by the runtime's weights, and zero where it has none. The optimizer is Yogi at 0.001
    unless given, as FedYogi's in the paper at a rate of ours.
    Departures: the paper's server deals slices so that each has an owner, here the draw may leave
    one out; and its variant that sends weights after local epochs is not here. The pass goes
    through all tensors, with zeros outside the slice, so its memory is not the paper's.
    A client that has failed sends NaNs. Failures and codecs are treated as `fed_avg` treats them.
    Raises `ValueError` unless slices is from 1 to the number of tensors and draws at least 1, and
    where the parameters do not have the structure of `like`.
    """
    tensors, structure = jax.tree.flatten(like)
    slices = len(tensors) if slices is None else slices
    if type(slices) is not int or not 1 <= slices <= min(len(tensors), 2**16):
        raise ValueError(
            f"spry: slices must be an integer from 1 to {len(tensors)}, the tensors there are, "
            f"got {slices!r}."
        )
    if type(draws) is not int or draws < 1:
        raise ValueError(f"spry: draws must be an integer of at least 1, got {draws!r}.")
    server_optimizer = server_optimizer or optax.yogi(0.001)
    down, mean = channel(downlink or identity(), like), weighted_mean()
    slope = along_all(forward(loss))
    slice_of = jax.tree.unflatten(structure, [i % slices for i in range(len(tensors))])

    def within(owned: Integer[Array, ""], seed: Seed, number: Integer[Array, ""]) -> PyTree:
        z = perturbation(like, seed, number)
        return jax.tree.map(lambda leaf, s: jnp.where(owned == s, leaf, 0.0), z, slice_of)

    def init(key: Key[Array, ""], params: Params) -> SpryState:
        check_structure(params, like, who="spry")
        return SpryState(params, server_optimizer.init(params), down.sender(params))

    def broadcast(key: Key[Array, ""], state: SpryState) -> tuple[Message, SpryState]:
        sent, end = down.send(key, state.params, state.downlink)
        return sent, state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        params, client_state = down.receive(sent, client_state)
        dealing, drawing = jr.split(key)
        owned = jr.randint(dealing, (), 0, slices).astype(jnp.uint16)
        seed = jr.bits(drawing, (2,), "uint32")
        slopes, infos = jax.lax.map(
            lambda n: slope(params, frozen, batches, within(owned, seed, n)), jnp.arange(draws)
        )
        info = ClientInfo(infos.loss[0], infos.targets[0])
        slopes = nan_where(~jnp.isfinite(info.loss), slopes)
        return SpryUplink(owned, seed, slopes), client_state, info

    def decode(state: SpryState, sent: Uplink) -> Share:
        def add(total: PyTree, here: tuple) -> tuple[PyTree, None]:
            number, inner = here
            z = within(sent.owned, sent.seed, number)
            return jax.tree.map(lambda t, z: t + inner / draws * z, total, z), None

        zeros = float32_zeros(like)
        gradient, _ = jax.lax.scan(add, zeros, (jnp.arange(draws), sent.slopes))
        return Share(gradient, (jnp.arange(slices) == sent.owned).astype(jnp.float32))

    def server_update(
        key: Key[Array, ""], state: SpryState, partial: PartialAggregate
    ) -> tuple[SpryState, ServerInfo]:
        gradient, owned = mean.finish(partial.aggregate)
        share = jnp.where(owned > 0, owned, 1.0)
        update = jax.tree.map(lambda g, s: -g / share[s], gradient, slice_of)
        params, memory = server_step(server_optimizer, state.params, state.optimizer, update)
        return server_result(
            partial, state._replace(params=params, optimizer=memory), state, update
        )

    gather = gather_updates(decode, mean, Share(like, jnp.zeros(slices)))
    return FederatedAlgorithm(init, down.receiver, broadcast, client_update, gather, server_update)
