"""Streaming DiLoCo (Douillard et al. 2025, arXiv:2501.18512, algorithm 2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs, check_optimizer, check_scalar
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ...precision import cast, in_dtypes, master_copy
from ...schedules import check_client_optimizer, first_step
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import check_like, check_loss, check_no_memory, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from ..shared.trees import choose, is_finite
from .fragments import Index, fragments, row, stacked, with_row


class StreamingState(NamedTuple):
    """Server state.

    Attributes:
        params: The parameters, each fragment as last synchronised.
        optimizers: States of the server optimizer: a row for each fragment.
        downlink: State of the downlink's sender: its codec state has a row for each fragment.

    """

    params: Params
    optimizers: optax.OptState
    downlink: ChannelState


class StreamingClient(NamedTuple):
    """Client state.

    Attributes:
        params: The client's parameters, which it goes on training.
        known: The server's parameters, each fragment as last received.
        optimizer: State of the client optimizer.
        uplinks: States of the uplink's sender: a row for each fragment.
        downlink: State of the downlink's receiver: its memory has a row for each fragment.

    """

    params: Params
    known: Params
    optimizer: optax.OptState
    uplinks: PyTree
    downlink: ChannelState


def streaming_diloco(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    fragments_of: int = 4,
    overlap: int = 0,
    mixing: float | int = 0.5,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """DiLoCo that synchronises one fragment of the parameters at a time, while clients go on
    training.

    A round is the time between two synchronisations: with P = `fragments_of` fragments and H local
    steps between two synchronisations of the same fragment, it has H / P local steps. At the end of
    round n a client sends its difference, in fragment (n - 1) mod P, to that fragment as last
    received. The server takes an outer step on the fragment and sends it in the next round. After
    `overlap` local steps of that round (the paper's tau) the client's fragment becomes
    mixing * own + (1 - mixing) * received (the paper's alpha). Clients have the initial parameters
    before the first round, whose downlink is not mixed in. Exact if both codecs are the identity.
    With one fragment, no overlap and mixing 0 this is `diloco` with the same server optimizer.

    Fragments are interleaved layers where these are stacked, and equal shares of the rows of the
    embedding, which the paper leaves open. The server optimizer has a state for each fragment.

    Up: the difference in one fragment, through `uplink`; the paper's has four bits an entry (E3M0),
    as `mxfp4()` has (E2M1 with a scale per block). Down: one fragment, through `downlink`, and the
    number of the message, 4 bytes. In the paper, workers reduce outer gradients among themselves
    and each takes the outer step. Cost: each client keeps two copies of the parameters beside the
    optimizer's state, and a codec state for each fragment.

    Every client must take part in every round: a client that missed a message sends NaNs from then
    on. A client whose training fails sends NaNs, and goes on from the parameters that it had.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local (inner) steps. Its state lasts on the client.
            An Optax schedule counts the client's own steps; the schedules of
            `fedjax_llm.schedules` follow the run.
        fragments_of: Number of fragments, at least 1. Default: 4.
        overlap: Local steps of a round before the received fragment is mixed in, from 0 to the
            steps of a round. Default: 0.
        mixing: Share of the client's own fragment after mixing, from 0 to 1. Default: 0.5.
        server_optimizer: Optax optimizer of the server's (outer) step. Default: the paper's, SGD at
            rate 0.4 with Nesterov momentum 0.9.
        uplink: Codec of the fragment's difference, without receiver memory. Default: `identity()`.
        downlink: Codec of the fragment. Default: `identity()`.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For `fragments_of`, `overlap` or `mixing` out of range, and for an uplink with
            receiver memory. From `init`, for parameters that differ in structure from `like`. From
            `client_update`, for batches of fewer steps than `overlap`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import mxfp4, wire
        >>> from fedjax_llm.algorithms import streaming_diloco
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((8, 32))}, jnp.ones((1, 1, 1))
        >>> adamw = optax.adamw(0.001)
        >>> method = streaming_diloco(loss, params, client_optimizer=adamw, uplink=mxfp4())
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # two rows of 32: 12 + 256 + 4; 12 + 32 + 2
        (272, 46)

    """
    who = "streaming_diloco"
    check_loss(loss, who=who)
    check_like(like, who=who)
    check_client_optimizer(client_optimizer, like, who=who, lasts=True)
    check_optimizer(server_optimizer, who=who, name="server_optimizer", optional=True)
    check_codecs(who=who, uplink=uplink, downlink=downlink)
    check_integer(fragments_of, who=who, name="fragments_of", at_least=1)
    check_integer(overlap, who=who, name="overlap", at_least=0)
    check_scalar(mixing, who=who, name="mixing", at_least=0, at_most=1)
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who=who, why="each round's mean is of another fragment")
    outer = server_optimizer or optax.sgd(0.4, momentum=0.9, nesterov=True)
    cut, count = fragments(fragments_of), fragments_of
    fragment_like = jax.eval_shape(lambda tree: cut.take(tree, 0), like)
    down, mean = channel(downlink, fragment_like, every_message=True), weighted_mean()
    steps = local_steps_with_state(in_dtypes(loss, like), client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> StreamingState:
        check_structure(params, like, who=who)
        memory = stacked(downlink.init, cut, params, count)
        end = ChannelState(memory, jnp.zeros((), jnp.uint32))
        masters = master_copy(params)
        return StreamingState(masters, stacked(outer.init, cut, masters, count), end)

    def client_init(params: Params) -> ClientState:
        memory = stacked(downlink.receiver, cut, params, count)
        coders = stacked(uplink.init, cut, params, count)
        end = ChannelState(memory, jnp.zeros((), jnp.uint32))
        masters = master_copy(params)
        return StreamingClient(masters, params, client_optimizer.init(masters), coders, end)

    def due(number: Index) -> Index:
        """Fragment that is sent up at the end of round `number` and down in the next round."""
        return (number + count - 1) % count

    def broadcast(key: Key[Array, ""], state: StreamingState) -> tuple[Message, StreamingState]:
        rows, sent_before = state.downlink
        number = due(sent_before)
        sent, end = down.send(
            key, cut.take(state.params, number), ChannelState(row(rows, number), sent_before)
        )
        rows = with_row(rows, number, end.memory)
        return sent, state._replace(downlink=ChannelState(rows, end.messages))

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        if overlap > len(batches.mask):
            raise ValueError(
                f"{who}: overlap: expected at most {len(batches.mask)}, the steps of a round, got "
                f"{overlap}."
            )
        before, after = (
            jax.tree.map(lambda leaf, span=span: leaf[span], batches)
            for span in (slice(None, overlap), slice(overlap, None))
        )
        rows, accepted = client_state.downlink
        arrived, sending = due(sent.number - 1), due(sent.number)
        received, end = down.receive(sent, ChannelState(row(rows, arrived), accepted))
        in_turn = is_finite(received)
        known = choose(in_turn, cut.put(client_state.known, arrived, received), client_state.known)
        alpha = jnp.where(sent.number > 1, mixing, 1.0)

        def mixed(params: Params) -> Params:
            new = jax.tree.map(
                lambda own, server: (alpha * own + (1 - alpha) * server).astype(own.dtype),
                cut.take(params, arrived),
                received,
            )
            return cut.put(params, arrived, new)

        progress = first_step(sent.number, batches)
        params, memory, first = steps(
            client_state.params, client_state.optimizer, frozen, before, progress
        )
        progress = progress._replace(step=overlap)
        params, memory, second = steps(mixed(params), memory, frozen, after, progress)
        info = _both(first, second)
        update = jax.tree.map(jnp.subtract, cut.take(params, sending), cut.take(known, sending))
        update = cast(update, fragment_like)
        failed = has_failed(info, params) | ~in_turn
        payload, coder = uplink.encode(
            key, nan_where(failed, update), row(client_state.uplinks, sending)
        )
        before_steps = choose(in_turn, mixed(client_state.params), client_state.params)
        kept = StreamingClient(
            choose(failed, before_steps, params),
            known,
            choose(failed, client_state.optimizer, memory),
            with_row(client_state.uplinks, sending, coder),
            ChannelState(with_row(rows, arrived, end.memory), end.messages),
        )
        return payload, kept, info

    def server_update(
        key: Key[Array, ""], state: StreamingState, partial: PartialAggregate
    ) -> tuple[StreamingState, ServerInfo]:
        number = due(state.downlink.messages)
        update = mean.finish(partial.aggregate)
        fragment, memory = server_step(
            outer, cut.take(state.params, number), row(state.optimizers, number), update
        )
        new = state._replace(
            params=cut.put(state.params, number, fragment),
            optimizers=with_row(state.optimizers, number, memory),
        )
        return server_result(partial, new, state, update)

    def decode(state: StreamingState, payload: Uplink) -> PyTree:
        return uplink.decode(payload, fragment_like)

    gather = gather_updates(decode, mean, fragment_like)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather,
        server_update,
        every_round=True,
    )


def _both(first: ClientInfo, second: ClientInfo) -> ClientInfo:
    """Combine the metrics of two runs of steps."""
    targets = first.targets + second.targets
    total = first.loss * first.targets + second.loss * second.targets
    return ClientInfo(total / jnp.maximum(targets, 1), targets)
