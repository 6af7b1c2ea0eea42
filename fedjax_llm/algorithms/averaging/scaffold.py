"""SCAFFOLD (Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1 with option II)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Int, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import check_no_memory, check_positive, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from ..shared.trees import choose, float32_zeros, is_finite


class ScaffoldState(NamedTuple):
    """What the server keeps."""

    params: Params
    control: Params
    """c: the mean of all clients' controls, by their weights."""
    optimizer: optax.OptState
    downlinks: tuple[ChannelState, ChannelState]
    """Of the parameters and of the control."""


class ScaffoldClient(NamedTuple):
    """What a client keeps."""

    control: Params
    """c_i: the mean of the gradients along its last local steps, as the server knows it."""
    uplinks: tuple[PyTree, PyTree]
    """Of the difference and of the control's."""
    downlinks: tuple[ChannelState, ChannelState]


class ScaffoldMessage(NamedTuple):
    """What travels, in either direction."""

    params: Message | PyTree
    """Down the parameters, up the difference that local steps made."""
    control: Message | PyTree
    """Down c, up by how much c_i changed."""


class Steps(NamedTuple):
    """What the correction keeps during local steps."""

    gradients: Params
    """Their sum, before the correction, in float32."""
    steps: Int[Array, ""]


def scaffold(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    population: float | int,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Local steps along g_i(y) - c_i + c, where the control c_i is the client's gradient as of its
    last round and c the mean of all of them: clients do not drift towards their own optimum.

    Up: the difference of the parameters and the change of c_i, each through `uplink` with a state
    of its own: twice FedAvg's bytes. Down: the parameters and c, each through `downlink`.
    Option II, c_i - c + (x - y) / (K * rate), is under SGD at a constant rate the mean of the K
    gradients along the local steps. That mean is what is taken here, so that K counts the steps
    that had targets, and no rate is assumed: with any other optimizer (momentum, Adam) the control
    is still a gradient, which is ours and not the paper's, and has no proof.

    `population` is the sum of the weights of all clients, drawn or not: their number where all
    weigh one. The server moves c by the sum of weight * change over `population`, |S| / N times
    the mean in the paper, so that c is the weighted mean of all c_i at any time, to rounding, also
    with a lossy uplink: a client's c_i moves by what the server decodes. The fixed point is then
    the optimum of the weighted loss. The server takes minus the weighted mean difference for a
    gradient; SGD at the paper's global rate, 1 unless given.
    A client that has failed sends NaNs; one that the server cannot hear keeps its c_i. Every client
    keeps a float32 copy of the parameters. Failures and downlinks with memories are treated as
    `fed_avg` treats them.
    Raises `ValueError` for an uplink whose receiver keeps a memory, unless population is above 0,
    and where the parameters do not have the structure of `like`.
    """
    check_positive(population, name="population", who="scaffold")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="scaffold", why="a client must know what the server decodes")
    server_optimizer = server_optimizer or optax.sgd(1.0)
    mean = weighted_mean()
    controls = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
    down = channel(downlink, like), channel(downlink, controls)

    def init(key: Key[Array, ""], params: Params) -> ScaffoldState:
        check_structure(params, like, who="scaffold")
        c = float32_zeros(params)
        ends = down[0].sender(params), down[1].sender(c)
        return ScaffoldState(params, c, server_optimizer.init(params), ends)

    def client_init(params: Params) -> ClientState:
        c = float32_zeros(params)
        uplinks = uplink.init(params), uplink.init(c)
        return ScaffoldClient(c, uplinks, (down[0].receiver(params), down[1].receiver(c)))

    def broadcast(key: Key[Array, ""], state: ScaffoldState) -> tuple[Downlink, ScaffoldState]:
        keys = jr.split(key)
        params, first = down[0].send(keys[0], state.params, state.downlinks[0])
        control, second = down[1].send(keys[1], state.control, state.downlinks[1])
        return ScaffoldMessage(params, control), state._replace(downlinks=(first, second))

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        x, first = down[0].receive(sent.params, client_state.downlinks[0])
        c, second = down[1].receive(sent.control, client_state.downlinks[1])
        correction = jax.tree.map(jnp.subtract, c, client_state.control)
        optimizer = optax.chain(corrected(correction), client_optimizer)
        y, (seen, _), info = local_steps_with_state(loss, optimizer)(
            x, optimizer.init(x), frozen, batches
        )
        # a client without targets has learnt nothing of its gradient
        change = jax.tree.map(
            lambda g, c_i: jnp.where(seen.steps > 0, g / jnp.maximum(seen.steps, 1) - c_i, 0.0),
            seen.gradients,
            client_state.control,
        )
        update = jax.tree.map(jnp.subtract, y, x)
        failed = has_failed(info, update, change)
        keys = jr.split(key)
        update, up_x = uplink.encode(keys[0], nan_where(failed, update), client_state.uplinks[0])
        moved, up_c = uplink.encode(keys[1], nan_where(failed, change), client_state.uplinks[1])
        heard, decoded = uplink.decode(update, like), uplink.decode(moved, controls)
        control = choose(
            is_finite((heard, decoded)),  # else the server leaves both out
            jax.tree.map(jnp.add, client_state.control, decoded),
            client_state.control,
        )
        kept = ScaffoldClient(control, (up_x, up_c), (first, second))
        return ScaffoldMessage(update, moved), kept, info

    def decode(state: ScaffoldState, sent: Uplink) -> ScaffoldMessage:
        return ScaffoldMessage(
            uplink.decode(sent.params, like), uplink.decode(sent.control, controls)
        )

    def server_update(
        key: Key[Array, ""], state: ScaffoldState, partial: PartialAggregate
    ) -> tuple[ScaffoldState, ServerInfo]:
        update, change = mean.finish(partial.aggregate)
        params, optimizer = server_step(server_optimizer, state.params, state.optimizer, update)
        share = partial.aggregate.weight / population
        control = jax.tree.map(lambda c, d: c + share * d, state.control, change)
        new = state._replace(params=params, control=control, optimizer=optimizer)
        return server_result(partial, new, state, update)

    gather = gather_updates(decode, mean, ScaffoldMessage(like, controls))
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def corrected(correction: PyTree) -> optax.GradientTransformation:
    """Add a correction to each gradient; the state sums the gradients without it."""

    def update(gradient: PyTree, seen: Steps, params: Params | None = None) -> tuple[PyTree, Steps]:
        total = jax.tree.map(lambda t, g: t + g.astype(jnp.float32), seen.gradients, gradient)
        along = jax.tree.map(lambda g, d: g + d.astype(g.dtype), gradient, correction)
        return along, Steps(total, seen.steps + 1)

    return optax.GradientTransformation(
        lambda params: Steps(float32_zeros(params), jnp.zeros((), jnp.int32)), update
    )
