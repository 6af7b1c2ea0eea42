"""`fedjax-llm train`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from ..runs import Row, RunConfig, baseline_rows, deliver, open_run_folder, prepare, run_rounds
from ..runs.delivery import check_save_base
from ..runs.folder import RunFolder
from ..runs.live import Live, line, live_progress, minute_lines
from ..runs.quality import Watched
from ..runs.registries import load_plugins
from ..runs.results import append_row, write_object
from ..runs.rows import summary
from ..simulation import Round
from ..studies import table
from .output import failures, keep_programs, nats, print_table

ENDING = "ending the evaluation"
"""What a signal makes of an evaluation, in words."""


def train(
    run: RunConfig = RunConfig(),
    baselines: bool = False,
    cache: Path | None = None,
    out: Path = Path("runs/train"),
    resume: bool = False,
    save_base: bool = False,
    checkpoint_every: int = 10,
    compilation_cache: Path | None = None,
    plugin: tuple[str, ...] = (),
) -> None:
    """Train once: rounds.jsonl, summary.json, checkpoints, and adapter/ or model/ in a folder, or
    one for each client where clients have models of their own.

    Args:
        run: The run.
        baselines: Also measure the untrained model, each client alone, and one model on all data.
        cache: Folder in which the tokens of a pretrained model's tokenizer are kept for later runs.
        out: Folder for the results; one that holds a run is refused without --resume.
        resume: Continue the run in the folder, to the same bits as if it had never stopped; starts
            a run where there is none.
        save_base: Also write the frozen base of an adapter to base/, for peft to open: needed for
            smollm2 and .gguf files. The base of a fresh decoder is always written.
        checkpoint_every: Rounds between checkpoints. One is also written before the evaluation of
            a round, and on SIGTERM and Ctrl-C; the last three are kept.
        compilation_cache: Folder in which compiled programs are kept for later commands.
        plugin: Modules that register codecs, methods or data of your own, such as mypkg.codecs.

    """
    load_plugins(plugin)
    keep_programs(compilation_cache)
    with minute_lines("reading data and model"):
        built = prepare(run, cache=cache)
    if baselines and built.client_optimizer is None:
        raise ValueError(
            f"baselines: expected a method with a client optimizer, got {run.algorithm}."
        )
    if save_base:
        check_save_base(built)
    with open_run_folder(out, built, resume=resume, every=checkpoint_every) as folder:
        row = folder.done
        if row is None:
            with live_progress(built.config.uplink, rounds=built.config.rounds) as show:
                row = _train(folder, out, show, baselines=baselines, save_base=save_base)
            write_object(folder.summary, row)
            if folder.stop.by and "stopped" in row:
                stopped = "{what} {done} of {of}".format(**row["stopped"])
                line(f"the evaluation was stopped at {stopped}; --resume --out {out} finishes it.")
                raise SystemExit(128 + folder.stop.by)
    shown = (f"{name:12} {nats(each)}" for name, each in row.get("baselines", {}).items())
    print_table(
        table([row]),
        f"{'federated':12} {nats(row)}",
        *shown,
        *failures([row]),
        f"{folder.summary}  digest {row['digest']}",
        *(f"{out / place}  {what}" for place, what in row.get("delivered", {}).items()),
    )


def _train(folder: RunFolder, out: Path, show: Live, *, baselines: bool, save_base: bool) -> Row:
    """Train and evaluate; a signal ends an evaluation with what was measured so far."""
    writing, written = Lock(), len(folder.past.rows)

    def write(row: Row) -> None:
        nonlocal written
        with writing:  # a round's row is written once, by the run or as its last words
            if row["round"] > written:
                append_row(folder.rounds, row)
                folder.unevaluated.unlink(missing_ok=True)
                written = row["round"]

    def each(row: Row) -> None:
        write(row)
        show(row)

    @contextmanager
    def evaluating(row: Row, computed: Round | None, seconds: float) -> Iterator[None]:
        def write_so_far() -> None:
            write(row | watched.of_round())
            line(
                f"stopped by {folder.stop.by.name if folder.stop.by else ''} in the evaluation of "
                f"round {row['round']}; --resume --out {out} continues it."
            )

        folder.begin_evaluation(row, computed, seconds)
        with folder.stop.ending_within(1.5, ENDING, write_so_far):
            yield

    def watch(what: str, done: int, of: int) -> bool:
        return show.evaluating(what, done, of) and folder.stop.by is None

    def write_so_far() -> None:
        write_object(folder.summary, watched.so_far() | delivered)

    watched = Watched(watch)
    show.started_at(folder.past.rows)
    ended = run_rounds(
        folder.run,
        each,
        past=folder.past,
        keep=folder.keep,
        watched=watched,
        evaluating=evaluating,
    )
    delivered = {"delivered": deliver(folder.run, ended.trained, out, save_base=save_base)}
    with folder.stop.ending_within(1.5, ENDING, write_so_far):
        row = summary(folder.run, ended, watched) | delivered
        if baselines and not watched.ended:
            row |= {"baselines": baseline_rows(folder.run, watched)}
    return row | {"stopped": watched.ended} if watched.ended else row
