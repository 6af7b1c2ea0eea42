"""Plans a round before it runs: which clients have faults, which are late, how long it takes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from fedjax_compression.errors import message
from jaxtyping import Array, Int, Key, PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Frozen, Params
from ...ledger import messages
from ..keys import FAULTS
from .availability import Windows
from .contract import Conditions, Plan
from .deadline import Deadline, duration, late
from .faults import Fate, faults
from .network import Links, arrivals


class Sizes(NamedTuple):
    """Bytes of a round's messages that are known before the round.

    Attributes:
        down: Bytes of a downlink; None if they depend on its values.
        up: Bytes of an uplink; None if they depend on its values.

    """

    down: int | None
    up: int | None


Judge: TypeAlias = Callable[[Key[Array, ""], np.ndarray, Plan, int, np.ndarray], Plan]
"""The kind of `RoundPlanner.judge`."""


class RoundPlanner(NamedTuple):
    """The conditions of a run, bound to the clients of its federation.

    Attributes:
        plan: `(round, round_key, cohort, steps) -> plan`, where `cohort` holds the numbers of the
            clients and `steps` their local steps, both `[cohort]`. None if there are neither faults
            nor a network, so that every client answers.
        judge: `(round_key, cohort, plan, down, ups) -> plan`: the plan with the clients that are
            late, given the bytes of the downlink and of the uplinks, `[cohort]`. None unless there
            is a deadline and these bytes depend on values; otherwise `plan` says who is late.
        seconds: `(cohort, plan, down, ups) -> seconds`: the simulated seconds of a round, from the
            bytes of its downlink and of its uplinks, `[cohort]`; 0 without a network.
        windows: When clients are available; None for always.

    """

    plan: Callable[[int, Key[Array, ""], np.ndarray, np.ndarray], Plan] | None
    judge: Judge | None
    seconds: Callable[[np.ndarray, Plan, int, np.ndarray], float]
    windows: Windows | None


def plan_rounds(
    conditions: Conditions,
    names: Sequence[str],
    sizes: Callable[[], Sizes],
    can_fail: Callable[[], bool],
) -> RoundPlanner:
    """Bind conditions to the clients of a federation, given their names.

    `sizes` is called only if there is a deadline, and `can_fail` only if a client is to fail.

    Raises `ValueError` for clients that the network has no link for; and from `plan`, for a client
    that is to fail where `can_fail` says that it cannot.
    """
    links = conditions.network and conditions.network.links(names)
    limits = conditions.deadline or Deadline()
    known = sizes() if conditions.deadline else None
    measured = known is not None and None in known
    schedule = conditions.faults or faults()

    def keys(round_key: Key[Array, ""], client: Int[Array, ""]) -> Key[Array, "2"]:
        """A client's key for its fate and its key for ties."""
        return jr.split(jr.fold_in(jr.fold_in(round_key, client), FAULTS))

    @jax.jit
    def draw_fates(round_key: Key[Array, ""], number: Any, cohort: Int[Array, " cohort"]) -> Fate:
        return jax.vmap(lambda client: schedule.draw(keys(round_key, client)[0], number, client))(
            cohort
        )

    @jax.jit
    def draw_ties(round_key: Key[Array, ""], cohort: Int[Array, " cohort"]) -> Array:
        return jax.vmap(lambda client: jr.uniform(keys(round_key, client)[1]))(cohort)

    def judge(
        round_key: Key[Array, ""], cohort: np.ndarray, plan: Plan, down: int, ups: np.ndarray
    ) -> Plan:
        assert links is not None  # noqa: S101 - a deadline needs a network
        arrived = arrivals(_of(links, cohort), down=down, steps=plan.steps, up=ups)
        ties = np.asarray(draw_ties(round_key, cohort))
        return plan._replace(late=late(limits, arrived, plan.answers, ties))

    def plan(number: int, round_key: Key[Array, ""], cohort: np.ndarray, steps: np.ndarray) -> Plan:
        fate = jax.device_get(draw_fates(round_key, np.int32(number), cohort))
        if fate.failed.any() and not can_fail():
            expected = "0 for a method whose clients receive and keep integers alone, never a NaN"
            remedy = "take another codec for the downlink, or silence in place of failure"
            raise ValueError(message("faults", "failure", expected, "a client that fails", remedy))
        # A client that drops out takes no step, so that its ClientInfo counts no targets.
        completed = np.ceil(fate.work.astype(float) * steps).astype(np.int64)
        completed = np.where(fate.dropped, 0, completed)
        in_time = np.zeros(len(cohort), bool)
        plan = Plan(fate.dropped, fate.silent, fate.failed, completed, in_time)
        if known is None or known.down is None or known.up is None:
            return plan
        return judge(round_key, cohort, plan, known.down, np.full(len(cohort), known.up))

    def seconds(cohort: np.ndarray, plan: Plan, down: int, ups: np.ndarray) -> float:
        if links is None:
            return 0.0
        arrived = arrivals(_of(links, cohort), down=down, steps=plan.steps, up=ups)
        return duration(limits, arrived, plan.counted)

    availability = conditions.availability
    everyone_answers = conditions.faults is None and conditions.network is None
    windows = availability and availability.windows(names)
    return RoundPlanner(
        None if everyone_answers else plan, judge if measured else None, seconds, windows
    )


def known_sizes(
    algorithm: FederatedAlgorithm, params: Params, frozen: Frozen, batches: PyTree
) -> Sizes:
    """The lengths of a downlink and of an uplink, where they do not depend on values.

    `batches` are one client's.
    """

    def size(message: PyTree) -> int | None:
        try:
            return wire.nbytes(message)
        except TypeError:
            return None

    return Sizes(*map(size, messages(algorithm, params, batches, frozen=frozen)))


def _of(links: Links, cohort: np.ndarray) -> Links:
    """The links of a cohort."""
    return Links(*(leaf[cohort] for leaf in links))
