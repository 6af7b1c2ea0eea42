"""A round as it is watched, and the snapshot that a run resumes from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ...algorithm import ClientInfo, ServerInfo, ServerState
from ...ledger import Entry
from ..conditions.contract import Plan
from .client_store import ClientStore, StoreRows


class Snapshot(NamedTuple):
    """Where a run stands: all that its next rounds depend on beside what `simulate` is given."""

    round: int
    """The last that is over."""
    state: ServerState
    store: StoreRows
    seconds: float = 0.0
    """Simulated, since the run began."""


def take_snapshot(
    number: int, state: ServerState, store: ClientStore, seconds: float = 0.0
) -> Snapshot:
    """Where a run stands after a round, with a copy of what its store holds now."""
    return Snapshot(number, state, store.rows(), seconds)


class Round(NamedTuple):
    """One round, as it is watched."""

    round: int
    """From 1."""
    state: ServerState
    clients: Int[np.ndarray, " cohort"]
    """The cohort: sorted positions in the corpus."""
    client_info: ClientInfo
    """Leaves `[cohort]`."""
    server_info: ServerInfo
    messages: list[Entry]
    snapshot: Callable[[], Snapshot]
    """Where the run stands, copied; before the next round is asked for."""
    plan: Plan | None = None
    """What became of the cohort; None where nothing could."""
    seconds: float = 0.0
    """Simulated, from the run's beginning to the round's end; 0 without a network."""
    staleness: Int[np.ndarray, " cohort"] | None = None
    """Steps of the server while each was at work; None where it waits for its cohort."""
