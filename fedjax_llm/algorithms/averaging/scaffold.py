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
from ...checks import check_codecs, check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ...precision import cast, float32_zeros, master_copy
from ...schedules import check_client_optimizer, first_step, needs_round
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import (
    check_like,
    check_loss,
    check_no_memory,
    check_positive,
    check_structure,
)
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from ..shared.trees import choose, is_finite


class ScaffoldState(NamedTuple):
    """Server state.

    Attributes:
        params: The server's parameters, narrower ones as float32 copies.
        control: c, in float32: the weighted mean of all clients' controls.
        optimizer: State of the server optimizer.
        downlinks: States of the senders of the parameters and of the control.

    """

    params: Params
    control: Params
    optimizer: optax.OptState
    downlinks: tuple[ChannelState, ChannelState]


class ScaffoldClient(NamedTuple):
    """Client state.

    Attributes:
        control: c_i, in float32: the mean gradient along the client's last local steps, as the
            server decoded it.
        uplinks: States of the senders of the difference and of the control's change.
        downlinks: States of the receivers of the parameters and of the control.

    """

    control: Params
    uplinks: tuple[PyTree, PyTree]
    downlinks: tuple[ChannelState, ChannelState]


class ScaffoldMessage(NamedTuple):
    """Payload in either direction.

    Attributes:
        params: Down: the parameters. Up: the difference after local steps.
        control: Down: c. Up: the change of c_i.

    """

    params: Message | PyTree
    control: Message | PyTree


class Steps(NamedTuple):
    """State of the correction during local steps.

    Attributes:
        gradients: Sum of the gradients before the correction, in float32.
        steps: Number of steps with targets.

    """

    gradients: Params
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
    """Clients step along g_i(y) - c_i + c, where the control c_i is the client's mean gradient in
    its last round and c the mean of all c_i, so that clients do not drift to their own optima.

    Option II of the paper, c_i - c + (x - y) / (K * rate), is the mean of the K gradients along the
    local steps, under SGD at a constant rate. Here that mean is computed from the gradients, so
    that K counts the steps with targets and no rate is assumed. With other optimizers (momentum,
    Adam) the control is still a gradient; that goes beyond the paper and has no proof.

    The server moves c by the sum of weight * change over `population`: |S| / N times the mean in
    the paper. So c is the weighted mean of all c_i at any time, up to rounding, also with a lossy
    uplink: a client's c_i moves by what the server decodes. The fixed point is the optimum of the
    weighted loss.

    Up: the difference and the change of c_i, each through `uplink` with a state of its own: twice
    FedAvg's bytes. Down: the parameters and c, each through `downlink`. A failed client sends NaNs;
    a client whose message is not counted, as it decodes to something not finite, is lost or comes
    too late, keeps its c_i. Downlinks with receiver memory are treated as in `fed_avg`. Cost: each
    client keeps a float32 copy of the parameters.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps. Its state starts afresh each round.
        population: Sum of the weights of all clients, sampled or not, above 0: the number of
            clients if all weigh 1.
        server_optimizer: Optax optimizer of the server, which takes minus the mean difference as
            its gradient. Default: SGD at rate 1, the paper's global rate.
        uplink: Codec of the difference and of the change, without receiver memory. Default:
            `identity()`.
        downlink: Codec of the parameters and of c. Default: `identity()`.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `population` that is not above 0, and for an uplink with receiver memory.
            From `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import scaffold
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 8))}, jnp.ones((1, 1, 1))
        >>> method = scaffold(loss, params, client_optimizer=optax.sgd(0.1), population=100)
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 8 an entry, header 12
        (524, 524)

    """
    check_loss(loss, who="scaffold")
    check_like(like, who="scaffold")
    check_client_optimizer(client_optimizer, like, who="scaffold")
    check_optimizer(server_optimizer, who="scaffold", name="server_optimizer", optional=True)
    check_codecs(who="scaffold", uplink=uplink, downlink=downlink)
    check_positive(population, name="population", who="scaffold")
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="scaffold", why="a client must know what the server decodes")
    server_optimizer = server_optimizer or optax.sgd(1.0)
    mean = weighted_mean()
    controls = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
    numbered = needs_round(client_optimizer, like)
    down = channel(downlink, like, numbered=numbered), channel(downlink, controls)

    def init(key: Key[Array, ""], params: Params) -> ScaffoldState:
        check_structure(params, like, who="scaffold")
        c = float32_zeros(params)
        ends = down[0].sender(params), down[1].sender(c)
        masters = master_copy(params)
        return ScaffoldState(masters, c, server_optimizer.init(masters), ends)

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
        y, (sums, _), info = local_steps_with_state(loss, optimizer)(
            x, optimizer.init(x), frozen, batches, first_step(sent.params.number, batches)
        )
        # a client without targets has computed no gradient
        change = jax.tree.map(
            lambda g, c_i: jnp.where(sums.steps > 0, g / jnp.maximum(sums.steps, 1) - c_i, 0.0),
            sums.gradients,
            client_state.control,
        )
        update = cast(jax.tree.map(jnp.subtract, y, x), like)
        failed = has_failed(info, update, change)
        keys = jr.split(key)
        update, up_x = uplink.encode(keys[0], nan_where(failed, update), client_state.uplinks[0])
        moved, up_c = uplink.encode(keys[1], nan_where(failed, change), client_state.uplinks[1])
        decoded = uplink.decode(update, like), uplink.decode(moved, controls)
        control = choose(
            is_finite(decoded),  # otherwise the server leaves both out
            jax.tree.map(jnp.add, client_state.control, decoded[1]),
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
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=lambda old, new: old._replace(downlinks=new.downlinks),
        every_message=any(each.every_message for each in down),
    )


def corrected(correction: PyTree) -> optax.GradientTransformation:
    """Add a correction to each gradient; the state sums the gradients before the correction."""

    def update(gradient: PyTree, sums: Steps, params: Params | None = None) -> tuple[PyTree, Steps]:
        total = jax.tree.map(lambda t, g: t + g.astype(jnp.float32), sums.gradients, gradient)
        along = jax.tree.map(lambda g, d: g + d.astype(g.dtype), gradient, correction)
        return along, Steps(total, sums.steps + 1)

    return optax.GradientTransformation(
        lambda params: Steps(float32_zeros(params), jnp.zeros((), jnp.int32)), update
    )
