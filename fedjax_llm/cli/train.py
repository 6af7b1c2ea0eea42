"""`fedjax-llm train`."""

from pathlib import Path

from ..runs import Row, RunConfig, baseline_rows, deliver, execute, open_run_folder, prepare
from ..runs.delivery import check_save_base
from ..runs.live import live_progress
from ..runs.registries import load_plugins
from ..runs.results import append_row, write_object
from ..studies import table
from .output import failures, keep_programs, nats, print_table


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
        checkpoint_every: Rounds between checkpoints. One is also written on SIGTERM and Ctrl-C; the
            last three are kept.
        compilation_cache: Folder in which compiled programs are kept for later commands.
        plugin: Modules that register codecs, methods or data of your own, such as mypkg.codecs.

    """
    load_plugins(plugin)
    keep_programs(compilation_cache)
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
                for finished in folder.past.rows:
                    show(finished)

                def each(row: Row) -> None:
                    append_row(folder.rounds, row)
                    show(row)

                row, trained = execute(folder.run, each, past=folder.past, keep=folder.keep)
            row["delivered"] = deliver(folder.run, trained, out, save_base=save_base)
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
        *(f"{out / place}  {what}" for place, what in row.get("delivered", {}).items()),
    )
