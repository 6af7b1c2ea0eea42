"""Plans a round before it runs: which clients have faults, which are late, how long it takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from jaxtyping import Array, Int, Key, PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Frozen, Params
from ...ledger import messages
from ..keys import FAULTS
from .availability import Windows
from .contract import Conditions, Plan
from .deadline import Deadline, duration, late
from .faults import faults
from .network import Links, arrivals


class Sizes(NamedTuple):
    """Bytes of a round's messages, as estimated before the round.

    Attributes:
        down: Bytes of a downlink.
        up: Bytes of an uplink.

    """

    down: int
    up: int


class RoundPlanner(NamedTuple):
    """The conditions of a run, bound to the clients of its federation.

    Attributes:
        plan: `(round, round_key, cohort, steps) -> plan`, where `cohort` holds the numbers of the
            clients and `steps` their local steps, both `[cohort]`. None if there are neither faults
            nor a network, so that every client answers.
        seconds: `(cohort, plan, down, ups) -> seconds`: the simulated seconds of a round, from the
            bytes of its downlink and of its uplinks, `[cohort]`; 0 without a network.
        windows: When clients are available; None for always.

    """

    plan: Callable[[int, Key[Array, ""], np.ndarray, np.ndarray], Plan] | None
    seconds: Callable[[np.ndarray, Plan, int, np.ndarray], float]
    windows: Windows | None


def plan_rounds(
    conditions: Conditions, names: Sequence[str], sizes: Callable[[], Sizes]
) -> RoundPlanner:
    """Bind conditions to the clients of a federation, given their names.

    Which clients are late depends on `sizes()` and on nothing that a round computes; it is called
    only if there is a deadline.

    Raises `ValueError` for clients that the network has no link for.
    """
    links = conditions.network and conditions.network.links(names)
    limits = conditions.deadline or Deadline()
    estimated = sizes() if conditions.deadline else Sizes(0, 0)
    schedule = conditions.faults or faults()

    @jax.jit
    def draw_fates(round_key: Key[Array, ""], number: Any, cohort: Int[Array, " cohort"]) -> tuple:
        def draw(client: Int[Array, ""]) -> tuple:
            fate_key, tie_key = jr.split(jr.fold_in(jr.fold_in(round_key, client), FAULTS))
            return schedule.draw(fate_key, number, client), jr.uniform(tie_key)

        return jax.vmap(draw)(cohort)

    def plan(number: int, round_key: Key[Array, ""], cohort: np.ndarray, steps: np.ndarray) -> Plan:
        fate, ties = jax.device_get(draw_fates(round_key, np.int32(number), cohort))
        # A client that drops out takes no step, so that its ClientInfo counts no targets.
        completed = np.ceil(fate.work.astype(float) * steps).astype(np.int64)
        completed = np.where(fate.dropped, 0, completed)
        in_time = np.zeros(len(cohort), bool)
        plan = Plan(fate.dropped, fate.silent, fate.failed, completed, in_time)
        if links is None:
            return plan
        ups = np.full(len(cohort), estimated.up)
        expected = arrivals(_of(links, cohort), down=estimated.down, steps=plan.steps, up=ups)
        return plan._replace(late=late(limits, expected, plan.answers, ties))

    def seconds(cohort: np.ndarray, plan: Plan, down: int, ups: np.ndarray) -> float:
        if links is None:
            return 0.0
        arrived = arrivals(_of(links, cohort), down=down, steps=plan.steps, up=ups)
        return duration(limits, arrived, plan.counted)

    availability = conditions.availability
    everyone_answers = conditions.faults is None and conditions.network is None
    windows = availability and availability.windows(names)
    return RoundPlanner(None if everyone_answers else plan, seconds, windows)


def estimated_sizes(
    algorithm: FederatedAlgorithm, params: Params, frozen: Frozen, batches: PyTree
) -> Sizes:
    """The lengths of a downlink and of an uplink that a server can know before a round.

    Exact unless a message is entropy-coded: its length depends on the round, and the length of the
    uncompressed parameters is used instead. `batches` are one client's.
    """
    uncompressed = wire.nbytes(jax.eval_shape(lambda: params))

    def size(message: PyTree) -> int:
        try:
            return wire.nbytes(message)
        except TypeError:
            return uncompressed

    return Sizes(*map(size, messages(algorithm, params, batches, frozen=frozen)))


def _of(links: Links, cohort: np.ndarray) -> Links:
    """The links of a cohort."""
    return Links(*(leaf[cohort] for leaf in links))
