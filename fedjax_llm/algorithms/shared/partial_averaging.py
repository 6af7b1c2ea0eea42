"""FedAvg's round for a subset of the parameters; the others are not sent."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
from .checks import check_like, check_structure


class PartState(NamedTuple):
    """Server state of `averaging_part`.

    Attributes:
        params: All parameters: the shared ones as the server last stepped them, the others as
            they were at the start.
        part: Server state of the averaging of the shared parameters.
        kept: What clients keep of the other parameters, as it was at the start.

    """

    params: Params
    part: AveragingState
    kept: PyTree


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
    population: float | int | None,
) -> FederatedAlgorithm:
    """Apply `averaging` to the shared parameters alone.

    `take(params)` are the shared parameters: the only ones that are sent and that the server
    steps. `work.init(params)` gets all parameters and returns what a client keeps of the others.
    `put(kept, shared)` makes all parameters of the two. A `server_optimizer` of None is SGD at
    rate 1.
    """
    check_like(like, who=who)
    inner = averaging(
        Work(lambda shared: (), work.update, work.numbered),
        jax.eval_shape(take, like),
        who=who,
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        population=population,
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

    def add_stale(state: PartState, *rest: Any) -> Partial:
        assert inner.add_stale is not None  # noqa: S101 - for the type checker
        return inner.add_stale(state.part, *rest)

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
        uncounted=inner.uncounted,
        every_message=inner.every_message,
        add_stale=add_stale if inner.add_stale else None,
    )
