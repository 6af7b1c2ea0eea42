"""Streaming DiLoCo (Douillard et al. 2025, arXiv:2501.18512, algorithm 2)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, identity
from jaxtyping import Array, Key, PyTree

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import check_no_memory, check_structure
from ..shared.failures import has_failed, nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from ..shared.trees import choose, is_finite
from .fragments import Index, fragments, row, stacked, with_row


class StreamingState(NamedTuple):
    """What the server keeps; of each fragment a row."""

    params: Params
    """The fragments as last synchronised."""
    optimizers: optax.OptState
    downlink: ChannelState


class StreamingClient(NamedTuple):
    """What a client keeps; of each fragment a row."""

    params: Params
    """Its own, which it goes on training."""
    known: Params
    """The server's, as last received."""
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
    """DiLoCo that synchronises one fragment of the parameters at a time, while clients go on.

    A round is the time between two synchronisations: with P = `fragments_of` fragments and H inner
    steps between two of the same one, H / P local steps. At the end of round n a client sends its
    difference in fragment (n - 1) mod P to that fragment as it last received it. The server's outer
    step makes a new fragment of it, which comes down in the next round: `overlap` inner steps later
    (tau) the client's own becomes mixing * own + (1 - mixing) * received (alpha). Clients have the
    initial parameters before the first round, whose downlink is mixed into nothing.
    Up: one fragment's difference, through `uplink`, identity unless given; in the paper it has four
    bits an entry, as `mxfp4()` has (E2M1 with a scale by block; the paper's format is E3M0). Down:
    one fragment, through `downlink`, and the number of the message, 4 bytes; the paper's workers
    reduce outer gradients among themselves and each makes the outer step. Exact where both are the
    identity. The outer optimizer has a state for each fragment: SGD at the paper's rate 0.4 with
    Nesterov momentum 0.9 unless given. With one fragment, no overlap and mixing 0 this is `diloco`.
    What fragments are, `fragments` says: interleaved layers where these are stacked, and, which the
    paper leaves open, equal shares of the embedding.

    Every client must take part in every round: one that missed a message sends NaNs ever after.
    A client whose steps fail sends NaNs, and goes on from the parameters that it had. Each keeps
    two copies of the parameters beside the inner optimizer's state, and a codec state for each
    fragment.
    Raises `ValueError` unless fragments_of is at least 1, overlap at least 0 and 0 <= mixing <= 1,
    for an uplink whose receiver keeps a memory, where the parameters do not have the structure of
    `like`, and when it is traced for rounds of fewer steps than the overlap.
    """
    _check(fragments_of, overlap, mixing)
    uplink, downlink = uplink or identity(), downlink or identity()
    check_no_memory(uplink, who="streaming_diloco", why="a mean is of one fragment of several")
    outer = server_optimizer or optax.sgd(0.4, momentum=0.9, nesterov=True)
    cut, count = fragments(fragments_of), fragments_of
    part = jax.eval_shape(lambda tree: cut.take(tree, 0), like)
    down, mean = channel(downlink, part, every_message=True), weighted_mean()
    steps = local_steps_with_state(loss, client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> StreamingState:
        check_structure(params, like, who="streaming_diloco")
        memory = stacked(downlink.init, cut, params, count)
        end = ChannelState(memory, jnp.zeros((), jnp.uint32))
        return StreamingState(params, stacked(outer.init, cut, params, count), end)

    def client_init(params: Params) -> ClientState:
        memory = stacked(downlink.receiver, cut, params, count)
        coders = stacked(uplink.init, cut, params, count)
        end = ChannelState(memory, jnp.zeros((), jnp.uint32))
        return StreamingClient(params, params, client_optimizer.init(params), coders, end)

    def due(number: Index) -> Index:
        """The fragment that goes up at the end of a round, and comes down in the next."""
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
                f"streaming_diloco: overlap must be at most the steps of a round, "
                f"{len(batches.mask)}, got {overlap}."
            )
        before, after = (
            jax.tree.map(lambda leaf, some=some: leaf[some], batches)
            for some in (slice(None, overlap), slice(overlap, None))
        )
        rows, taken = client_state.downlink
        arrived, left = due(sent.number - 1), due(sent.number)
        received, end = down.receive(sent, ChannelState(row(rows, arrived), taken))
        in_turn = is_finite(received)
        known = choose(in_turn, cut.put(client_state.known, arrived, received), client_state.known)
        alpha = jnp.where(sent.number > 1, mixing, 1.0)

        def mixed(params: Params) -> Params:
            new = jax.tree.map(
                lambda mine, theirs: (alpha * mine + (1 - alpha) * theirs).astype(mine.dtype),
                cut.take(params, arrived),
                received,
            )
            return cut.put(params, arrived, new)

        params, memory, first = steps(client_state.params, client_state.optimizer, frozen, before)
        params, memory, second = steps(mixed(params), memory, frozen, after)
        info = _both(first, second)
        update = jax.tree.map(jnp.subtract, cut.take(params, left), cut.take(known, left))
        failed = has_failed(info, params) | ~in_turn
        payload, coder = uplink.encode(
            key, nan_where(failed, update), row(client_state.uplinks, left)
        )
        before_steps = choose(in_turn, mixed(client_state.params), client_state.params)
        kept = StreamingClient(
            choose(failed, before_steps, params),
            known,
            choose(failed, client_state.optimizer, memory),
            with_row(client_state.uplinks, left, coder),
            ChannelState(with_row(rows, arrived, end.memory), end.messages),
        )
        return payload, kept, info

    def server_update(
        key: Key[Array, ""], state: StreamingState, partial: PartialAggregate
    ) -> tuple[StreamingState, ServerInfo]:
        left = due(state.downlink.messages)
        update = mean.finish(partial.aggregate)
        fragment, memory = server_step(
            outer, cut.take(state.params, left), row(state.optimizers, left), update
        )
        new = state._replace(
            params=cut.put(state.params, left, fragment),
            optimizers=with_row(state.optimizers, left, memory),
        )
        return server_result(partial, new, state, update)

    gather = gather_updates(lambda state, payload: uplink.decode(payload, part), mean, part)
    return FederatedAlgorithm(init, client_init, broadcast, client_update, gather, server_update)


def _both(first: ClientInfo, second: ClientInfo) -> ClientInfo:
    targets = first.targets + second.targets
    total = first.loss * first.targets + second.loss * second.targets
    return ClientInfo(total / jnp.maximum(targets, 1), targets)


def _check(fragments_of: int, overlap: int, mixing: float | int) -> None:
    if not isinstance(fragments_of, int) or fragments_of < 1:
        raise ValueError(
            f"streaming_diloco: fragments_of must be at least 1, got {fragments_of!r}."
        )
    if not isinstance(overlap, int) or overlap < 0:
        raise ValueError(f"streaming_diloco: overlap must be at least 0, got {overlap!r}.")
    if isinstance(mixing, bool) or not 0 <= mixing <= 1:
        raise ValueError(f"streaming_diloco: mixing must be from 0 to 1, got {mixing!r}.")
