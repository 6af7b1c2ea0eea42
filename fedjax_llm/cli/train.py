"""`fedjax-llm train`."""

from pathlib import Path

from ..runs import Row, RunConfig, baseline_rows, deliver, execute, open_run_folder, prepare
from ..runs.live import live_progress
from ..runs.results import append_row, write_object
from ..studies import table
from .output import failures, keep_programs, nats, print_table


def train(
    run: RunConfig = RunConfig(),
    baselines: bool = False,
    cache: Path | None = None,
    out: Path = Path("runs/train"),
    resume: bool = False,
    checkpoint_every: int = 10,
    compilation_cache: Path | None = None,
) -> None:
    """Train once: rounds.jsonl, summary.json, checkpoints, and adapter/ or model/ in a folder.

    Args:
        run: The run.
        baselines: Measure beside it the start, each client alone, and one model on all text.
        cache: Folder in which the tokens of a checkpoint's tokenizer are kept for later runs.
        out: Folder for the results; one that holds a run already is refused unless resumed.
        resume: Go on with the run in the folder, to the same bits as if it had never stopped;
            start one where there is none.
        checkpoint_every: Rounds from checkpoint to checkpoint. One is written at SIGTERM and at
            Ctrl-C too, and the last three are kept.
        compilation_cache: Folder in which compiled programs are kept for later commands.

    """
    keep_programs(compilation_cache)
    built = prepare(run, cache=cache)
    if baselines and built.client_optimizer is None:
        raise ValueError(f"baselines: expected a client_optimizer, {run.algorithm} takes none.")
    with open_run_folder(out, built, resume=resume, every=checkpoint_every) as folder:
        row = folder.done
        if row is None:
            with live_progress(built.config.uplink, rounds=built.config.rounds) as show:
                for finished in folder.past.rows:
                    show(finished)

                def each(row: Row) -> None:
                    append_row(folder.rounds, row)
                    show(row)

                row, trained = execute(folder.run, each, past=folder.past, keep=folder.keep)
            deliver(folder.run, trained, out)
            if baselines:
                row["baselines"] = baseline_rows(folder.run)
            write_object(folder.summary, row)
    shown = (f"{name:12} {nats(each)}" for name, each in row.get("baselines", {}).items())
    print_table(
        table([row]),
        f"{'federated':12} {nats(row)}",
        *shown,
        *failures([row]),
        f"{folder.summary}  digest {row['digest']}",
    )
