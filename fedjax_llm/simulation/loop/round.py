"""What `simulate` yields for each round, and the snapshot that a run resumes from."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ...algorithm import ClientInfo, ServerInfo, ServerState
from ...ledger import Entry
from ..conditions.contract import Plan
from .client_store import ClientStore, StoreRows


class Snapshot(NamedTuple):
    """What a run resumes from: all that its later rounds need beside the arguments of `simulate`.

    Pass it as `simulate(..., start=snapshot)` with the other arguments unchanged.

    Attributes:
        round: The number of the last completed round.
        state: The server state after it.
        store: The client states after it.
        seconds: Simulated seconds since the run began; 0 without a network.

    """

    round: int
    state: ServerState
    store: StoreRows
    seconds: float = 0.0


def take_snapshot(
    number: int, state: ServerState, store: ClientStore, seconds: float = 0.0
) -> Snapshot:
    """The snapshot after a round, with a copy of the client states that the store holds now."""
    return Snapshot(number, state, store.rows(), seconds)


class Round(NamedTuple):
    """The result of one round.

    Attributes:
        round: The round's number, from 1.
        state: The server state after the round; `state.params` are the trainable parameters,
            as float32 copies if the model has them in bfloat16 or float16.
        clients: The cohort: sorted positions of its clients in the corpus, `[cohort]`.
        client_info: What each client reports, such as its `loss` and its number of `targets`:
            NumPy leaves `[cohort]`.
        server_info: What the server reports: clients `accepted` and `failed`, `update_norm`, and
            `clipped` where its rule counts that.
        messages: The ledger's entries of all messages that the round sent.
        snapshot: `() -> snapshot`: copies what a run resumes from. Call it before the next round
            is requested, which changes the client states.
        plan: What happened to each client of the cohort; None if there are neither faults nor a
            network.
        seconds: Simulated seconds from the run's beginning to the end of the round; 0 without a
            network.
        staleness: Server steps taken while each client was at work, `[cohort]`, in
            `simulate_buffered`; None for rounds that wait for their cohort.
        malicious: Which clients of the cohort are malicious, `[cohort]`; None without an attack.

    """

    round: int
    state: ServerState
    clients: Int[np.ndarray, " cohort"]
    client_info: ClientInfo
    server_info: ServerInfo
    messages: list[Entry]
    snapshot: Callable[[], Snapshot]
    plan: Plan | None = None
    seconds: float = 0.0
    staleness: Int[np.ndarray, " cohort"] | None = None
    malicious: Bool[np.ndarray, " cohort"] | None = None
