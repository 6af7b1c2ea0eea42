"""Train a run in a folder: rounds, checkpoints, what was trained, and the evaluation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock

from ..simulation import Round
from .config import RunConfig
from .delivery import check_save_base, deliver
from .execute import run_rounds
from .folder import RunFolder, open_run_folder
from .live import Live, line, live_progress, minute_lines
from .prepare import prepare
from .quality import Watched, baseline_rows
from .results import Row, read_rows, write_object
from .rows import summary
from .stopping import Stop, interrupts
from .tracking import Tracker, Tracking, openers, tracking

ENDING = "ending the evaluation"
"""What a signal makes of an evaluation, in words."""


def train(
    config: RunConfig = RunConfig(),
    *,
    out: Path | str = "runs/train",
    resume: bool = False,
    track: str | Tracker | Sequence[str | Tracker] = (),
    baselines: bool = False,
    save_base: bool = False,
    checkpoint_every: int = 10,
    cache: Path | None = None,
) -> Row:
    """Train once, as `fedjax-llm train` does, and return the summary.

    Writes `rounds.jsonl` and `rounds.csv` (a row for each round), `summary.json`, `run.json`,
    checkpoints, and what was trained as `adapter/`, `model/` or one for each client.

    The first Ctrl-C, or a notebook's stop button, finishes the current round, writes a checkpoint
    and raises `KeyboardInterrupt`; the second raises it at once. Either way the folder's rows are
    whole, nothing holds the folder, and `resume=True` goes on to the bits of a run that was never
    stopped.

    Args:
        config: The run.
        out: Folder for the results; one that holds a run is refused without `resume`.
        resume: Continue the run in the folder; starts a run where there is none.
        track: Where the numbers of the rounds' rows and the summary also go: "tensorboard",
            "wandb", "trackio", several of them, or a `Tracker` of your own. No run there has a
            round twice, whatever is resumed.
        baselines: Also measure the untrained model, each client alone, and one model on all data.
        save_base: Also write the frozen base of an adapter to `base/`, for `peft` to open.
        checkpoint_every: Rounds between checkpoints.
        cache: Folder in which the tokens of a pretrained model's tokenizer are kept for later runs.

    Returns:
        The summary row, as it is in `summary.json`.

    Raises:
        KeyboardInterrupt: When it is interrupted, saying how to go on.
        ModuleNotFoundError: For a tracker whose package is not installed, before anything is read.
        TypeError: For a `config` that is no `RunConfig`, and a tracker that is none.
        ValueError: For a wrong field of `config`, for a folder that holds a run, or another one
            than `config`, and for a folder in use.

    Example:
        >>> from fedjax_llm import RunConfig, train
        >>> config = RunConfig(rounds=20, clients=32, uplink="eden(bits=1)")
        >>> train(config, out="runs/eden", track="tensorbord")
        Traceback (most recent call last):
        ...
        ValueError: track: expected one of tensorboard, trackio, wandb, got 'tensorbord' (did you \
mean tensorboard?).

    """
    if not isinstance(config, RunConfig):
        raise TypeError(f"train: config: expected a RunConfig, got {config!r}.")
    return train_until_stopped(
        config,
        Path(out),
        resume=resume,
        track=track,
        baselines=baselines,
        save_base=save_base,
        checkpoint_every=checkpoint_every,
        cache=cache,
        stopping=interrupts,
    )


def train_until_stopped(
    config: RunConfig,
    out: Path,
    *,
    resume: bool,
    track: str | Tracker | Sequence[str | Tracker],
    baselines: bool,
    save_base: bool,
    checkpoint_every: int,
    cache: Path | None,
    stopping: Callable[[], AbstractContextManager[Stop]],
) -> Row:
    """`train`, until what `stopping` yields asks it to stop."""
    opened = openers(track)
    with minute_lines("reading data and model"):
        built = prepare(config, cache=cache)
    for each in built.left_out:
        line(each)
    if baselines and built.client_optimizer is None:
        raise ValueError(
            f"baselines: expected a method with a client optimizer, got {config.algorithm}."
        )
    if save_base:
        check_save_base(built)
    with open_run_folder(
        out, built, resume=resume, every=checkpoint_every, stopping=stopping
    ) as folder:
        config, row = folder.run.config, folder.done
        if row is not None and not opened:
            return row
        with tracking(opened, out, config, resume=resume) as sent:
            sent.rounds(folder.past.rows if row is None else read_rows(folder.rounds))
            if row is None:
                with live_progress(config.uplink, rounds=config.rounds) as show:
                    row = _train(folder, out, show, sent, baselines=baselines, save_base=save_base)
                write_object(folder.summary, row)
            if folder.stop.by and "stopped" in row:
                stopped = "{what} {done} of {of}".format(**row["stopped"])
                folder.stop.end(
                    f"the evaluation was stopped at {stopped}; "
                    f"{folder.stop.again.format(out=str(out))} finishes it."
                )
            sent.summary(row)
    return row


def _train(
    folder: RunFolder, out: Path, show: Live, sent: Tracking, *, baselines: bool, save_base: bool
) -> Row:
    """Train and evaluate; a signal ends an evaluation with what was measured so far."""
    writing, written = Lock(), len(folder.past.rows)

    def write(row: Row) -> None:
        nonlocal written
        with writing:  # a round's row is written once, by the run or as its last words
            if row["round"] > written:
                folder.append(row)
                written = row["round"]

    def each(row: Row) -> None:
        write(row)
        show(row)
        sent.rounds([row])

    @contextmanager
    def evaluating(row: Row, computed: Round | None, seconds: float) -> Iterator[None]:
        def write_so_far() -> None:
            write(row | watched.of_round())
            line(
                f"stopped by {folder.stop.by.name if folder.stop.by else ''} in the evaluation of "
                f"round {row['round']}; {folder.stop.again.format(out=str(out))} continues it."
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
