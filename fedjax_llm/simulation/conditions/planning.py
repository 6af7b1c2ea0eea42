"""What a round's clients run into, settled before they run: faults, speed and deadlines."""

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
    """Bytes of a round's messages, as far as they are known before it."""

    down: int
    up: int


class RoundPlanner(NamedTuple):
    """Conditions of a federation whose clients are known."""

    plan: Callable[[int, Key[Array, ""], np.ndarray, np.ndarray], Plan] | None
    """`(round, round_key, cohort, steps) -> plan`, of clients who have so many steps to take; None
    where everybody answers in time."""
    seconds: Callable[[np.ndarray, Plan, int, np.ndarray], float]
    """`(cohort, plan, down, ups) -> seconds` that a round takes by the bytes that were made; 0
    without a network."""
    windows: Windows | None
    """When clients are there; None where they always are."""


def plan_rounds(
    conditions: Conditions, names: Sequence[str], sizes: Callable[[], Sizes]
) -> RoundPlanner:
    """Conditions for clients of these names. Who is late is settled by `sizes`, and by nothing
    that a round computes.

    Raises `ValueError` for a deadline or availability without a network, and for clients that the
    network has no link for.
    """
    for name in ("deadline", "availability"):
        if getattr(conditions, name) is not None and conditions.network is None:
            raise ValueError(
                f"simulate: {name} is in simulated seconds, expected a network too, got none."
            )
    links = conditions.network and conditions.network.links(names)
    ends = conditions.deadline or Deadline()
    known = sizes() if conditions.deadline else Sizes(0, 0)
    schedule = conditions.faults or faults()

    @jax.jit
    def drawn(round_key: Key[Array, ""], number: Any, cohort: Int[Array, " cohort"]) -> tuple:
        def one(client: Int[Array, ""]) -> tuple:
            fate_key, tie_key = jr.split(jr.fold_in(jr.fold_in(round_key, client), FAULTS))
            return schedule.draw(fate_key, number, client), jr.uniform(tie_key)

        return jax.vmap(one)(cohort)

    def plan(number: int, round_key: Key[Array, ""], cohort: np.ndarray, steps: np.ndarray) -> Plan:
        fate, ties = jax.device_get(drawn(round_key, np.int32(number), cohort))
        # A client that drops out sees no data: what it is watched by is of no targets.
        done = np.ceil(fate.work.astype(float) * steps).astype(np.int64)
        none = np.zeros(len(cohort), bool)
        done = np.where(fate.dropped, 0, done)
        plan = Plan(fate.dropped, fate.silent, fate.failed, done, none)
        if links is None:
            return plan
        sent = np.full(len(cohort), known.up)
        there = arrivals(_some(links, cohort), down=known.down, steps=plan.steps, up=sent)
        return plan._replace(late=late(ends, there, plan.answers, ties))

    def seconds(cohort: np.ndarray, plan: Plan, down: int, ups: np.ndarray) -> float:
        if links is None:
            return 0.0
        there = arrivals(_some(links, cohort), down=down, steps=plan.steps, up=ups)
        return duration(ends, there, plan.counted)

    at = conditions.availability
    alone = conditions.faults is None and conditions.network is None
    return RoundPlanner(None if alone else plan, seconds, at and at.windows(names))


def known_sizes(
    algorithm: FederatedAlgorithm, params: Params, frozen: Frozen, batches: PyTree
) -> Sizes:
    """The length of a downlink and of an uplink, as what a server can know beforehand.

    Exact, but where a message is entropy-coded: its length then depends on the round, and that of
    the parameters as they are is taken for it. `batches` are one client's.
    """
    raw = wire.nbytes(jax.eval_shape(lambda: params))

    def size(message: PyTree) -> int:
        try:
            return wire.nbytes(message)
        except TypeError:
            return raw

    return Sizes(*map(size, messages(algorithm, params, batches, frozen=frozen)))


def _some(links: Links, cohort: np.ndarray) -> Links:
    return Links(*(leaf[cohort] for leaf in links))
