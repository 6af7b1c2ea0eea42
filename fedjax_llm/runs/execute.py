"""One run: its rounds as rows, and what came of it."""

import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .. import models
from ..adapters import export_adapter, merge_adapter
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
    """What of a run was run before, by another process."""

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
    """Run all rounds, or those that are left, handing each one's row to `each` and then itself
    and the run's seconds so far to `keep`, and return the summary of all and the
    parameters trained, with the frozen ones that they belong to.

    All but `seconds`, `versions` and `device` is the same for the same configuration.
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
    """The summaries of runs that differ in seed alone, run as one program; `each` takes the rounds
    of the first. Their `seconds` are those of all.

    Raises `ValueError` for a client axis, a method or conditions that cannot run so.
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


def deliver(run: Run, trained: Trained, out: Path) -> Path | None:
    """Write what was trained: `adapter/`, which `peft` opens, or else `model/`, the model with it,
    which `transformers` opens.

    The model, too, where the method has changed its base, as an adapter alone would lack that.
    Gives the folder; None where neither has a place for what was trained.
    """
    model, learnt = run.task.model(*trained), run.workload
    if trained.frozen is run.task.frozen:
        with suppress(ValueError):
            export_adapter(out / "adapter", model, base_model=run.config.model)
            return out / "adapter"
    try:
        merged = merge_adapter(model)
    except ValueError:
        return None
    if (out / "model").exists():  # of this run, which was stopped after it
        shutil.rmtree(out / "model")
    models.save(out / "model", learnt.decoder, merged, tokenizer=learnt.tokenizer)
    return out / "model"


def choose_client_axis(run: Run) -> Timed:
    """The client axis that `auto()` stands for on this machine; says so on standard error."""
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
    """The rounds of a run, those after `start` where it is given."""
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
