"""FedAvg's round for a part of the parameters: the rest stays where it is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, Float, Key, PyTree

from ...algorithm import (
    ClientState,
    Downlink,
    FederatedAlgorithm,
    Gather,
    Partial,
    ServerInfo,
    Uplink,
)
from ...client_training import Params
from .averaging import AveragingState, Work, averaging
from .checks import check_structure


class PartState(NamedTuple):
    """What the server keeps."""

    params: Params
    """All of them; the part that travels is the server's, the rest as it was at first."""
    part: AveragingState
    kept: PyTree
    """What clients keep of the rest, as it was at first."""


def averaging_part(
    work: Work,
    like: Params,
    *,
    who: str,
    take: Callable[[Params], PyTree],
    put: Callable[[PyTree, PyTree], Params],
    server_optimizer: optax.GradientTransformation | None,
    uplink: Compressor | None,
    downlink: Compressor | None,
) -> FederatedAlgorithm:
    """`averaging` of `take(params)` alone: it is what travels, and what the server steps.

    `work.init` is given all parameters, and keeps what of the rest a client needs; `put` makes all
    parameters of that and a part.
    """
    inner = averaging(
        Work(lambda part: (), work.update),
        jax.eval_shape(take, like),
        who=who,
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
    )

    def init(key: Key[Array, ""], params: Params) -> PartState:
        check_structure(params, like, who=who)
        part, kept = inner.init(key, take(params)), work.init(params)
        return PartState(put(kept, part.params), part, kept)

    def client_init(params: Params) -> ClientState:
        return inner.client_init(take(params))._replace(work=work.init(params))

    def broadcast(key: Key[Array, ""], state: PartState) -> tuple[Downlink, PartState]:
        sent, part = inner.broadcast(key, state.part)
        return sent, state._replace(part=part)

    def empty(state: PartState, clients: int) -> Partial:
        return inner.gather.empty(state.part, clients)

    def add(
        state: PartState, partial: Partial, uplinks: Uplink, weights: Float[Array, " clients"]
    ) -> Partial:
        return inner.gather.add(state.part, partial, uplinks, weights)

    def server_update(
        key: Key[Array, ""], state: PartState, partial: Partial
    ) -> tuple[PartState, ServerInfo]:
        part, info = inner.server_update(key, state.part, partial)
        return PartState(put(state.kept, part.params), part, state.kept), info

    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        inner.client_update,
        Gather(empty, add, inner.gather.merge),
        server_update,
    )
