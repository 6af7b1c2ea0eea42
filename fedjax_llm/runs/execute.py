"""Execute a run: rounds to rows, a summary, and what was trained."""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from ..algorithm import SplitMethod
from ..simulation import (
    Auto,
    ClientAxis,
    Member,
    Round,
    Snapshot,
    Timed,
    candidates,
    fastest,
    simulate,
    simulate_buffered,
    simulate_split,
    simulate_together,
)
from .prepare import Run
from .results import Row
from .rows import Trained, round_row, summary


class ResumePoint(NamedTuple):
    """Rounds of a run that an earlier process completed.

    Attributes:
        snapshot: State after the last of them; None where there is none.
        rows: Their rows.
        seconds: Their wall-clock seconds.

    """

    snapshot: Snapshot | None = None
    rows: Sequence[Row] = ()
    seconds: float = 0.0


def execute(
    run: Run,
    each: Callable[[Row], None],
    *,
    past: ResumePoint = ResumePoint(),
    keep: Callable[[Round, float], None] | None = None,
) -> tuple[Row, Trained]:
    """Run all rounds, or those that are left.

    Args:
        run: The run.
        each: Called with each round's row.
        past: Rounds that an earlier process completed.
        keep: Called after `each` with the round and the run's wall-clock seconds so far.

    Returns:
        The summary row, and what was trained. All fields of the row but `seconds`, `versions` and
        `device` are equal for equal configurations.

    """
    axis = (
        run.client_axis if isinstance(run.client_axis, ClientAxis) else choose_client_axis(run).axis
    )
    started = time.perf_counter() - past.seconds
    rows = list(past.rows)
    last: Round | None = None
    for finished in rounds(run, axis, past.snapshot):
        last = finished
        rows.append(round_row(run, finished))
        each(rows[-1])
        if keep:
            keep(finished, time.perf_counter() - started)
    state = last.state if last else past.snapshot and past.snapshot.state
    snapshot = last.snapshot if last else lambda: past.snapshot
    return summary(run, rows, state, snapshot, time.perf_counter() - started)


def execute_together(runs: Sequence[Run], each: Callable[[Row], None]) -> list[Row]:
    """Run several runs that differ only in their seed, as one program.

    Args:
        runs: The runs.
        each: Called with each round's row of the first run.

    Returns:
        Their summary rows; `seconds` is the time of all of them together.

    Raises:
        ValueError: For a client axis, a method or conditions that cannot run together.

    """
    config, method, axis = runs[0].config, runs[0].algorithm, runs[0].client_axis
    if isinstance(axis, Auto):
        raise ValueError("client_axis: expected vmap() or scan() for runs together, got auto().")
    if isinstance(method, SplitMethod) or config.buffer is not None or any(runs[0].conditions):
        raise ValueError(
            "together: expected a method of whole rounds, without faults, network or buffer, got "
            f"{config.algorithm} with one of these."
        )
    started = time.perf_counter()
    members = [
        Member(run.task.params, run.task.frozen, run.split.train, run.config.seed) for run in runs
    ]
    rows: list[list[Row]] = [[] for _ in runs]
    for finished in simulate_together(
        lambda _: method,
        members,
        runs[0].batching,
        rounds=config.rounds,
        clients=config.clients,
        client_axis=axis,
    ):
        for run, mine, one in zip(runs, rows, finished, strict=True):
            mine.append(round_row(run, one))
        each(rows[0][-1])
    seconds = time.perf_counter() - started
    return [
        {**summary(run, mine, one.state, one.snapshot, seconds)[0], "together": len(runs)}
        for run, mine, one in zip(runs, rows, finished, strict=True)
    ]


def choose_client_axis(run: Run) -> Timed:
    """Time the candidate client axes on a run; print the choice to standard error."""
    best, found = fastest(lambda axis: rounds(run, axis), candidates(run.config.clients))
    times = ", ".join(
        f"{each.name} {f'{each.seconds:.3g} s' if each.seconds else 'does not fit'}"
        for each in found
    )
    print(f"fedjax-llm: auto() is {best.name} ({times} a round).", file=sys.stderr)
    return best


def rounds(
    run: Run, axis: ClientAxis, start: Snapshot | None = None
) -> Generator[Round, None, None]:
    """The rounds of a run; only those after `start` where it is given."""
    config, method = run.config, run.algorithm
    federation = run.task.params, run.task.frozen, run.split.train, run.batching
    count, clients, seed = config.rounds, config.clients, config.seed
    if isinstance(method, SplitMethod):
        return simulate_split(
            method, *federation, rounds=count, clients=clients, seed=seed, start=start
        )
    if config.buffer is not None:
        return simulate_buffered(
            method,
            *federation,
            rounds=count,
            clients=clients,
            buffer=config.buffer,
            seed=seed,
            conditions=run.conditions,
        )
    return simulate(
        method,
        *federation,
        rounds=count,
        clients=clients,
        seed=seed,
        client_axis=axis,
        start=start,
        conditions=run.conditions,
    )
