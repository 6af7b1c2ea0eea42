"""A run's folder: rounds in JSON lines and CSV, summary.json, run.json, checkpoints; resuming."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax.random as jr
from fedjax_compression.text import build, parse

from ..locks import locked
from ..simulation import CLIENT_AXES, Auto, Round
from ..simulation.run_checkpoints import RunCheckpoints
from .config import ENDS, parse_config
from .contents import check_contents
from .csv_rows import append_csv, write_csv
from .delivery import FOLDERS
from .execute import ResumePoint, choose_client_axis
from .prepare import Run
from .results import Row, append_row, read_rows, write_object
from .rows import versions
from .stopping import Stop, stop_signals


class RunFolder(NamedTuple):
    """An open folder.

    Attributes:
        run: The run, with the client axis that `auto()` chose in this folder.
        rounds: Path of rounds.jsonl.
        summary: Path of summary.json.
        past: Rounds completed before, from the last readable checkpoint.
        done: The summary, if the run is complete.
        append: `(row) -> None`: append a round's row to rounds.jsonl and rounds.csv.
        begin_evaluation: `(row, round, seconds) -> None`: keeps a round before its evaluation, so
            that nothing is lost if that is ended: the row in unevaluated.json until it is appended,
            and a checkpoint if this process computed the round.
        keep: `(round, seconds, last) -> None`, for `execute`: writes a checkpoint when one is due,
            and ends the process after a stop signal.
        stop: Whether the run was asked to stop.

    """

    run: Run
    rounds: Path
    summary: Path
    past: ResumePoint
    done: Row | None
    append: Callable[[Row], None]
    begin_evaluation: Callable[[Row, Round | None, float], None]
    keep: Callable[[Round, float, bool], None]
    stop: Stop


@contextmanager
def open_run_folder(
    out: Path,
    run: Run,
    *,
    resume: bool,
    every: int,
    stopping: Callable[[], AbstractContextManager[Stop]] = stop_signals,
) -> Iterator[RunFolder]:
    """Lock a run's folder, creating it if needed, and find how far its run has got.

    A checkpoint is written every `every` rounds, before the evaluation of a round, after the last
    round, and after the current round when the run is asked to stop, which then ends it.

    Args:
        out: The folder.
        run: The run.
        resume: Continue the folder's run from its last readable checkpoint; rows of later rounds
            are removed from rounds.jsonl and made again. Starts a run where there is none. A
            buffered run has no checkpoints and starts again. A finished run goes on where `run` has
            more rounds or another target loss, to the bits of a run that never ended between.
        every: Rounds between checkpoints.
        stopping: What asks the run to stop. Default: SIGTERM and SIGINT, which then end the process
            with status 128 plus the signal's number.

    Raises:
        ValueError: For a folder that holds a run, without `resume`; for a run with another
            configuration or other contents, naming the field; for a run to resume of which an
            earlier version recorded no contents; for a folder in use; for rounds.jsonl with missing
            rows.

    """
    if every < 1:
        raise ValueError(f"checkpoint_every: expected at least 1, got {every}.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: expected a folder to write to, got a file.")
    logging.getLogger("absl").setLevel(
        logging.CRITICAL
    )  # Orbax's threads also print errors that it raises
    rounds, summary = out / "rounds.jsonl", out / "summary.json"
    unevaluated = out / "unevaluated.json"
    if not resume:
        _refuse_run(out)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        held.enter_context(locked(out))
        same_end = check_same_run(out, run) if resume else True
        if not resume:
            _refuse_run(out)
        run = _begun(out / "run.json", run, resume=resume)
        found = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else None
        done = found if found and same_end and "stopped" not in found else None
        stop = held.enter_context(stopping())
        checkpoints = held.enter_context(RunCheckpoints(out / "checkpoints"))
        past = ResumePoint()
        if not done:
            past = _past(run, checkpoints, rounds, unevaluated, finished=bool(found))
            if rounds.exists():
                write_csv(out / "rounds.csv", past.rows)
        if not same_end:
            known = json.loads((out / "run.json").read_text(encoding="utf-8"))
            write_object(out / "run.json", known | {"config": asdict(run.config)})

        def append(row: Row) -> None:
            append_row(rounds, row)
            append_csv(out / "rounds.csv", row)
            unevaluated.unlink(missing_ok=True)

        begin, keep = _keepers(run, out, checkpoints, stop, every, unevaluated)
        yield RunFolder(run, rounds, summary, past, done, append, begin, keep, stop)


def _begun(about: Path, run: Run, *, resume: bool) -> Run:
    """Write run.json, or read from it the client axis that `auto()` chose before."""
    if resume and about.exists():
        known = json.loads(about.read_text(encoding="utf-8"))
        name = known["auto"]
        return run._replace(client_axis=build(parse(name), CLIENT_AXES)) if name else run
    found = choose_client_axis(run) if isinstance(run.client_axis, Auto) else None
    name, config = found and found.name, asdict(run.config)
    left_out = {"left_out": run.workload.left_out} if run.workload.left_out else {}
    write_object(
        about,
        {"config": config, "contents": run.contents, "auto": name, "versions": versions()}
        | left_out,
    )
    return run._replace(client_axis=found.axis) if found else run


def _refuse_run(out: Path) -> None:
    kept = sorted(path for path in (out / "checkpoints").glob("*") if path.name.isdigit())
    for path in (out / "rounds.jsonl", out / "summary.json", *kept):
        if path.exists():
            raise ValueError(
                f"{out}: expected a folder without a run, got one with {path.relative_to(out)}; "
                "--resume or resume=True continues it."
            )
    _refuse_delivered(out)


def _refuse_delivered(out: Path) -> None:
    """Raise `ValueError` for a folder with something in the place of a trained model."""
    for name in FOLDERS:
        if (out / name).exists():
            raise ValueError(
                f"{out}: expected a folder without {name}/, which this run may write, got one with "
                "it; give another --out."
            )


def check_same_run(out: Path, run: Run, file: str = "run.json") -> bool:
    """Whether the folder's run, which must be this one, also ends where this one does.

    Args:
        out: The folder.
        run: The run.
        file: The file in it that records the configuration.

    Raises:
        ValueError: For a run with another configuration or other contents, naming the field.

    """
    about = out / file
    if not about.exists():
        if (out / "rounds.jsonl").exists():
            raise ValueError(f"{out}: expected {file}, which records the configuration, got none.")
        _refuse_delivered(out)
        return True
    before = json.loads(about.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(asdict(run.config)))
    differing = {
        name: (expected, got)
        for name, got in _flat(now).items()
        if (expected := _flat(before["config"]).get(name, got)) != got
    }
    for name, (expected, got) in differing.items():
        if name not in ENDS or (name == "rounds" and _counts_its_rounds(run)):
            raise ValueError(f"{name}: expected {expected!r}, as in the run in {out}, got {got!r}.")
    if "contents" in before or differing or not (out / "summary.json").exists():
        # what an earlier version finished is only shown
        check_contents(before.get("contents"), run.contents, where=str(out))
    if before["versions"] != versions():
        warnings.warn(
            f"{out}: started with {before['versions']}, resumed with {versions()}: its bits may "
            "differ from those of a run that was never stopped.",
            stacklevel=2,
        )
    return not differing


def _counts_its_rounds(run: Run) -> bool:
    """Whether the size of the method's messages depends on the number of rounds."""
    parsed = parse_config(run.config)
    given = dict(parsed.texts["algorithm"].call.kwargs)
    return "window" in parsed.method.needs and "window" not in given


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested configurations into one dictionary by field name."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return found


def _past(
    run: Run, checkpoints: RunCheckpoints, rounds: Path, unevaluated: Path, *, finished: bool
) -> ResumePoint:
    """Rounds up to the last readable checkpoint; later rows are cut from rounds.jsonl.

    So is the row of its own round where the evaluation of that was ended. Where the process was
    killed in it, that row is in `unevaluated` alone.
    """
    key = jr.fold_in(jr.key(run.config.seed), 0)
    server = run.algorithm.init(key, run.task.params)
    restored = checkpoints.restore(server, run.algorithm.client_init(run.task.params))
    wanted = restored.snapshot.round if restored else 0
    if wanted > run.config.rounds:
        raise ValueError(
            f"rounds: expected at least {wanted}, which the run has done, got {run.config.rounds}."
        )
    if finished and not wanted and run.config.buffer is None:
        raise ValueError(
            f"{rounds.parent}: expected a checkpoint to go on from, got a finished run without one."
        )
    if not rounds.exists() and not wanted:
        return ResumePoint()
    lines = rounds.read_bytes().splitlines(keepends=True) if rounds.exists() else []
    left = _unevaluated(lines[wanted - 1 : wanted] if wanted else [], unevaluated, wanted)
    if left:
        write_object(unevaluated, left)
    if lines:
        os.truncate(rounds, sum(map(len, lines[: wanted - 1 if left else wanted])))
    rows = read_rows(rounds)
    if [row.get("round") for row in rows] != list(range(1, wanted if left else wanted + 1)):
        raise ValueError(
            f"{rounds}: expected the rows of rounds 1 to {wanted}, as the checkpoint is of round "
            f"{wanted}, got {len(rows)} rows."
        )
    if not restored:
        return ResumePoint()
    return ResumePoint(restored.snapshot, rows, restored.notes["seconds"], left)


def _unevaluated(last: list[bytes], unevaluated: Path, number: int) -> Row | None:
    """The row of round `number` without its evaluation, where that did not end.

    Args:
        last: The line of that round in rounds.jsonl, if there is one.
        unevaluated: The file of a row whose round is being evaluated.
        number: The number of the round.

    """
    if last:
        row = json.loads(last[0]) if last[0].endswith(b"\n") else {}
        return {k: v for k, v in row.items() if k != "stopped"} if "stopped" in row else None
    kept = json.loads(unevaluated.read_text(encoding="utf-8")) if unevaluated.exists() else {}
    return kept if kept.get("round") == number else None


def _keepers(
    run: Run, out: Path, checkpoints: RunCheckpoints, stop: Stop, every: int, unevaluated: Path
) -> tuple[Callable[[Row, Round | None, float], None], Callable[[Round, float, bool], None]]:
    """The functions `begin_evaluation` and `keep` of a `RunFolder`."""
    kept = 0

    def save(finished: Round, seconds: float) -> None:
        nonlocal kept
        if finished.round > kept and run.config.buffer is None:
            checkpoints.save(finished.snapshot(), {"seconds": seconds})
            kept = finished.round

    def begin_evaluation(row: Row, computed: Round | None, seconds: float) -> None:
        write_object(unevaluated, row)
        if computed:
            save(computed, seconds)

    def keep(finished: Round, seconds: float, last: bool) -> None:
        number, asked = finished.round, stop.by
        saved = run.config.buffer is None
        if asked or number % every == 0 or last:
            save(finished, seconds)
        if asked:
            checkpoints.wait()
            stop.end(
                f"stopped by {asked.name} after round {number} of {run.config.rounds}; "
                f"{stop.again.format(out=str(out))} "
                f"{'continues it' if saved else 'starts it again'}."
            )

    return begin_evaluation, keep
