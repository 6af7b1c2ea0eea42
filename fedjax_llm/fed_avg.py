"""Federated averaging (McMahan et al. 2017, arXiv:1602.05629) with any optimizer at either end
(Reddi et al. 2021, arXiv:2003.00295, algorithm 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor, has_receiver_memory, identity, predictive
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

from .aggregate import Aggregator, leave_out_failed, weighted_mean
from .algorithm import ClientState, Downlink, FederatedAlgorithm, Gather, ServerInfo, Uplink
from .local import Batches, ClientInfo, Frozen, Loss, Params, local_steps


class FedAvgState(NamedTuple):
    """What the server keeps."""

    params: Params
    optimizer: optax.OptState
    downlink: PyTree
    """What the downlink's sender keeps."""
    uplink: PyTree
    """What the uplink's receiver keeps."""
    messages: PyTree[UInt32[Array, ""]]
    """Downlinks sent so far, where their receivers keep a memory."""
    known: PyTree
    """What clients are told of the last update, where uplinks are coded given it."""


class FedAvgClient(NamedTuple):
    """What a client keeps."""

    uplink: PyTree
    """What the uplink's sender keeps."""
    downlink: PyTree
    """What the downlink's receiver keeps."""
    messages: PyTree[UInt32[Array, ""]]
    """The last downlink that it took in, where it keeps a memory of them."""


class FedAvgDownlink(NamedTuple):
    """What the server sends."""

    params: PyTree
    """As the downlink codes them."""
    message: PyTree[UInt32[Array, ""]]
    """The number of this message, from 1, where receivers keep a memory."""
    known: PyTree
    """The last aggregated update, where uplinks are coded given it."""


class FedAvgPartial(NamedTuple):
    """What the server holds of the clients so far."""

    aggregate: PyTree
    accepted: Int[Array, ""]
    failed: Int[Array, ""]


def fed_avg(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    prediction: float | int = 0.0,
) -> FederatedAlgorithm:
    """Clients train from the server's parameters and send the difference; the server steps along
    the mean difference.

    Up: the difference, through `uplink`. Down: the parameters, through `downlink`, so that a
    client needs no memory of them. Exact where both are the identity, which is what `None`
    stands for. `like` is the structure of the parameters. The server takes minus the aggregate
    for a gradient: SGD at rate 1 (`None`) is FedAvg, `optax.sgd(1.0, momentum=0.9)` FedAvgM,
    `adam`, `yogi` and `adagrad` are FedAdam, FedYogi and FedAdagrad, SGD with Nesterov momentum
    is DiLoCo's outer step. `aggregate` is the mean by the runtime's weights unless given.

    Client optimizers start afresh each round; the uplink's state lasts, at both ends, and its
    receiver takes the aggregate for a mean of the clients. Where a downlink's receiver keeps a
    memory (`ef21`) messages are numbered, in four bytes: every client must take part in every
    round from the first, and one that missed a message sends NaNs ever after. A client whose loss
    is not finite sends an update of NaNs; an update that decodes to a NaN or an infinity is counted
    and left out. Where none is left, the server stays as it was.

    With a `prediction` above zero the server sends its last aggregated update as well, as it is, in
    the parameters' dtypes, and the uplink codes a client's difference to `prediction` times that
    (`predictive`): fewer bits or a smaller error up where rounds are alike, for a downlink of up to
    twice the bytes. Not with a momentum at the uplink's sender (`dgc`, `dct_top_k`).
    Raises `ValueError` where the parameters do not have the structure of `like`, unless
    0 <= prediction <= 1, and for a prediction beside an uplink whose receiver keeps a memory, which
    is a prediction of its own.
    """
    if isinstance(prediction, bool) or not 0 <= prediction <= 1:
        raise ValueError(f"fed_avg: prediction must be from 0 to 1, got {prediction!r}.")
    server_optimizer = server_optimizer or optax.sgd(1.0)
    uplink, downlink = uplink or identity(), downlink or identity()
    numbered = has_receiver_memory(downlink)
    if prediction and has_receiver_memory(uplink):
        raise ValueError(
            f"fed_avg: expected prediction 0 where the uplink's receiver keeps a memory, which is "
            f"a prediction of its own, got {prediction!r}."
        )
    aggregate = aggregate or weighted_mean()
    train = local_steps(loss, client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> FedAvgState:
        _check_structure(params, like)
        return FedAvgState(
            params,
            server_optimizer.init(params),
            downlink.init(params),
            uplink.receiver(params),
            no_messages(),
            jax.tree.map(jnp.zeros_like, params) if prediction else (),
        )

    def uplink_given(known: PyTree) -> Compressor:
        return predictive(uplink, known, weight=prediction) if prediction else uplink

    def no_messages() -> PyTree[UInt32[Array, ""]]:
        return jnp.zeros((), jnp.uint32) if numbered else ()

    def client_init(params: Params) -> ClientState:
        return FedAvgClient(uplink.init(params), downlink.receiver(params), no_messages())

    def broadcast(key: Key[Array, ""], state: FedAvgState) -> tuple[Downlink, FedAvgState]:
        payload, coder = downlink.encode(key, state.params, state.downlink)
        messages = jax.tree.map(lambda sent: sent + 1, state.messages)
        sent = FedAvgDownlink(payload, messages, state.known)
        return sent, state._replace(downlink=coder, messages=messages)

    def receive(sent: Downlink, state: FedAvgClient) -> tuple[Params, FedAvgClient]:
        """The server's parameters; NaNs, and no memory of them, where a message was missed."""
        decoded = downlink.decode(sent.params, like)
        received, memory = downlink.receive(decoded, state.downlink)
        received = jax.tree.map(lambda r, p: r.astype(p.dtype), received, like)
        if not numbered:
            return received, state
        in_turn = sent.message == state.messages + 1
        kept = state._replace(downlink=memory, messages=sent.message)
        return (
            jax.tree.map(lambda r: jnp.where(in_turn, r, jnp.nan), received),
            jax.tree.map(lambda new, old: jnp.where(in_turn, new, old), kept, state),
        )

    def client_update(
        key: Key[Array, ""], frozen: Frozen, sent: Downlink, state: ClientState, batches: Batches
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        received, state = receive(sent, state)
        trained, info = train(received, frozen, batches)
        failed = ~jnp.isfinite(info.loss)
        update = jax.tree.map(lambda t, r: jnp.where(failed, jnp.nan, t - r), trained, received)
        payload, coder = uplink_given(sent.known).encode(key, update, state.uplink)
        return payload, state._replace(uplink=coder), info

    def empty(state: FedAvgState, clients: int) -> FedAvgPartial:
        none = jnp.zeros((), jnp.int32)
        return FedAvgPartial(aggregate.empty(like, clients), none, none)

    def add(
        state: FedAvgState,
        partial: FedAvgPartial,
        uplinks: Uplink,
        weights: Float[Array, " clients"],
    ) -> FedAvgPartial:
        coder = uplink_given(state.known)
        decoded = jax.vmap(lambda payload: coder.decode(payload, like))(uplinks)
        updates, weights, failed = leave_out_failed(decoded, weights)
        return FedAvgPartial(
            aggregate.add(partial.aggregate, updates, weights),
            partial.accepted + (weights > 0).sum(dtype=jnp.int32),
            partial.failed + failed.sum(dtype=jnp.int32),
        )

    def merge(one: FedAvgPartial, other: FedAvgPartial) -> FedAvgPartial:
        return FedAvgPartial(
            aggregate.merge(one.aggregate, other.aggregate),
            one.accepted + other.accepted,
            one.failed + other.failed,
        )

    def server_update(
        key: Key[Array, ""], state: FedAvgState, partial: FedAvgPartial
    ) -> tuple[FedAvgState, ServerInfo]:
        update, memory = uplink.receive(aggregate.finish(partial.aggregate), state.uplink)
        gradient = jax.tree.map(lambda u, p: -u.astype(p.dtype), update, state.params)
        step, optimizer = server_optimizer.update(gradient, state.optimizer, state.params)
        stepped = state._replace(
            params=optax.apply_updates(state.params, step),
            optimizer=optimizer,
            uplink=memory,
            known=jax.tree.map(lambda u, p: u.astype(p.dtype), update, state.params)
            if prediction
            else (),
        )
        some = partial.accepted > 0
        state = jax.tree.map(lambda new, old: jnp.where(some, new, old), stepped, state)
        return state, ServerInfo(partial.accepted, partial.failed, optax.tree.norm(update))

    return FederatedAlgorithm(
        init, client_init, broadcast, client_update, Gather(empty, add, merge), server_update
    )


def _check_structure(params: Params, like: Params) -> None:
    got, expected = (
        [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, like))
    )
    for g, e in zip(got, expected, strict=False):
        if g != e:
            raise ValueError(f"fed_avg: expected parameters like {e}, got {g}.")
    if len(got) != len(expected):
        raise ValueError(f"fed_avg: expected {len(expected)} parameters, got {len(got)}.")
