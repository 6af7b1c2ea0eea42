"""Execute a run: rounds to rows, a summary, and what was trained."""

import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple, TypeAlias

from ..algorithm import ServerState, SplitMethod
from ..algorithms.shared.base_changes import base_of
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
from .quality import Watched, quality
from .results import Row
from .rows import Ended, round_row, summary, trained_by

Evaluating: TypeAlias = Callable[[Row, Round | None, float], AbstractContextManager[None]]
"""The kind of `run_rounds`' `evaluating`."""


class ResumePoint(NamedTuple):
    """Rounds of a run that an earlier process completed.

    Attributes:
        snapshot: State after the last of them; None where there is none.
        rows: Their rows, but for `unevaluated`.
        seconds: Their wall-clock seconds.
        unevaluated: The row of the last of them, if its evaluation was ended before it was done.

    """

    snapshot: Snapshot | None = None
    rows: Sequence[Row] = ()
    seconds: float = 0.0
    unevaluated: Row | None = None


def execute(run: Run, each: Callable[[Row], None], watched: Watched | None = None) -> Row:
    """Run all rounds, or until the target loss, and evaluate.

    Args:
        run: The run.
        each: Called with each round's row.
        watched: Who is told of the progress of evaluations.

    Returns:
        The summary row. All its fields but `seconds`, `versions` and `device` are equal for equal
        configurations and contents.

    """
    return summary(run, run_rounds(run, each, watched=watched), watched)


def run_rounds(
    run: Run,
    each: Callable[[Row], None],
    *,
    past: ResumePoint = ResumePoint(),
    keep: Callable[[Round, float, bool], None] | None = None,
    watched: Watched | None = None,
    evaluating: Evaluating | None = None,
) -> Ended:
    """Run all rounds, or those that are left, or until the target loss.

    Args:
        run: The run.
        each: Called with each round's row.
        past: Rounds that an earlier process completed.
        keep: `(round, seconds, last)`: called after `each` with the round, the run's wall-clock
            seconds so far, and whether no round follows.
        watched: Who is told of the progress of rounds' evaluations and may end them. The row of
            such a round has what was measured so far in `stopped`.
        evaluating: `(row, round, seconds)`: a context in which a round is evaluated, given its row
            without the evaluation; `round` is None if an earlier process computed it.

    Returns:
        The rows, what was trained, and the seconds.

    """
    axis = (
        run.client_axis if isinstance(run.client_axis, ClientAxis) else choose_client_axis(run).axis
    )
    started = time.perf_counter() - past.seconds
    rows = list(past.rows)
    watched = watched or Watched()

    def finish(row: Row, state: ServerState, computed: Round | None = None) -> None:
        if evaluating and is_evaluated(run, row):
            with evaluating(row, computed, time.perf_counter() - started):
                row = evaluated_row(run, row, state, watched)
        else:
            row = evaluated_row(run, row, state, watched)
        rows.append(row)
        each(row)

    if past.unevaluated and past.snapshot:
        finish(past.unevaluated, past.snapshot.state)
    last: Round | None = None
    if not (watched.ended or reached(run, rows)):
        for finished in rounds(run, axis, past.snapshot, ahead=True):
            last = finished
            finish(round_row(run, finished), finished.state, finished)
            done = reached(run, rows)
            if keep:
                is_last = done or finished.round == run.config.rounds
                keep(finished, time.perf_counter() - started, is_last)
            if done:
                break
    state = last.state if last else past.snapshot and past.snapshot.state
    snapshot = last.snapshot if last else lambda: past.snapshot
    return Ended(rows, trained_by(run, state, snapshot), time.perf_counter() - started)


def evaluated_row(run: Run, row: Row, state: ServerState, watched: Watched) -> Row:
    """A round's row, with the losses on held-out data if it is one of those that get them."""
    if not is_evaluated(run, row):
        return row
    watched.begin({})
    found = quality(run, state.params, base_of(state, run.task.frozen), watched)
    watched.add(found)
    return row | (watched.of_round() if watched.ended else found)


def is_evaluated(run: Run, row: Row) -> bool:
    """Whether the round of a row is one of those that are evaluated."""
    every = run.config.evaluate_every
    return every is not None and row["round"] % every == 0


def reached(run: Run, rows: Sequence[Row]) -> bool:
    """Whether the last round reached the run's target loss."""
    name = f"heldout_nats_per_{run.unit}"
    target, last = run.config.target_loss, rows[-1] if rows else {}
    loss = None if "stopped" in last else last.get(name)
    return target is not None and loss is not None and loss <= target


def execute_together(
    runs: Sequence[Run], each: Callable[[Row], None], watched: Watched | None = None
) -> list[Row]:
    """Run several runs that differ only in their seed, as one program.

    Args:
        runs: The runs.
        each: Called with each round's row of the first run.
        watched: Who is told of the progress of evaluations, of each run in turn.

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
    if runs[0].later:
        raise ValueError(f"together: expected an uplink that stays the same, got {config.uplink}.")
    if runs[0].private:
        raise ValueError(
            f"together: expected runs without noise for privacy, got {config.aggregate}."
        )
    if config.target_loss is not None:
        raise ValueError(
            f"target_loss: expected none for runs together, which end together, got "
            f"{config.target_loss}."
        )
    watched = watched or Watched()
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
            mine.append(evaluated_row(run, round_row(run, one), one.state, watched))
        each(rows[0][-1])
    seconds = time.perf_counter() - started
    return [
        {
            **summary(run, Ended(mine, trained_by(run, one.state, one.snapshot), seconds), watched),
            "together": len(runs),
        }
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
    run: Run, axis: ClientAxis, start: Snapshot | None = None, *, ahead: bool = False
) -> Generator[Round, None, None]:
    """The rounds of a run; only those after `start` where it is given. `ahead` is of `simulate`."""
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
    staged = partial(
        simulate,
        clients=clients,
        seed=seed,
        client_axis=axis,
        conditions=run.conditions,
        secret=run.private and run.private.secret,
        ahead=ahead,
    )
    if run.later is None:
        return staged(method, *federation, rounds=count, start=start)
    return _in_stages(staged, run, federation, start)


def _in_stages(
    staged: Callable[..., Generator[Round, None, None]],
    run: Run,
    federation: tuple,
    start: Snapshot | None,
) -> Generator[Round, None, None]:
    """The rounds of a run whose uplink changes: the second stage resumes from the first."""
    assert run.later  # noqa: S101 - for the type checker
    after = run.later.after
    if start is None or start.round < after:
        for done in staged(run.algorithm, *federation, rounds=after, start=start):
            yield done
        start = done.snapshot()
    yield from staged(run.later.algorithm, *federation, rounds=run.config.rounds, start=start)
