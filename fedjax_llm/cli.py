"""The `fedjax-llm` command."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro
from fedjax_compression import codec
from rich.console import Console

from . import frontier, jsonl
from .bench import LADDER, bench_table
from .bench import bench as measured
from .frontier.rate_distortion import CODECS as CODECS_MEASURED
from .progress import progress
from .runs import Row, RunConfig, beside, deliver, execute, locked, opened, prepare

QUICK = RunConfig(rounds=6, clients=16)
"""What `frontier --quick` starts from."""


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
    with opened(out, built, resume=resume, every=checkpoint_every) as folder:
        row = folder.done
        if row is None:
            with progress(built.config.uplink, rounds=built.config.rounds) as show:
                for finished in folder.past.rows:
                    show(finished)

                def each(row: Row) -> None:
                    jsonl.append(folder.rounds, row)
                    show(row)

                row, trained = execute(folder.run, each, past=folder.past, keep=folder.keep)
            deliver(folder.run, trained, out)
            if baselines:
                row["baselines"] = beside(folder.run)
            jsonl.write(folder.summary, row)
    shown = (f"{name:12} {_nats(each)}" for name, each in row.get("baselines", {}).items())
    _print(
        frontier.table([row]),
        f"{'federated':12} {_nats(row)}",
        *shown,
        *_failures([row]),
        f"{folder.summary}  digest {row['digest']}",
    )


def sweep_from(common: RunConfig) -> Callable[..., None]:
    """The command `frontier`, whose runs have `common` in common unless flags say otherwise."""

    def sweep(
        run: RunConfig = common,
        codecs: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (),
        quick: bool = False,
        together: bool = False,
        compilation_cache: Path | None = None,
        out: Path = Path("runs/frontier"),
    ) -> None:
        """Compare uplink codecs: results.jsonl and frontier.png in a folder, and with a link
        seconds.png.

        Args:
            run: What the runs have in common.
            codecs: Uplink codecs to compare; a default set unless given.
            seeds: Seeds to repeat each codec with; --seed unless given.
            quick: Six codecs for six rounds of sixteen clients, unless other flags say otherwise.
            together: Run the seeds of a codec as one program: the same to rounding, and faster
                where one run does not fill the device, for the memory of all.
            compilation_cache: Folder in which compiled programs are kept for later commands.
            out: Folder for the results; runs whose row is there already are not run again.

        """
        keep_programs(compilation_cache)
        codecs = codecs or (frontier.QUICK_CODECS if quick else frontier.CODECS)
        configs = frontier.configurations(run, codecs, seeds or (run.seed,))
        with locked(_folder(out)):
            rows = list(frontier.sweep(configs, out / "results.jsonl", together=together))
        pictures = [out / "frontier.png"]
        frontier.draw(rows, pictures[0])
        if frontier.cost_of(rows) is frontier.SECONDS:
            pictures.append(out / "seconds.png")
            frontier.draw(rows, pictures[1], frontier.SECONDS)
        files = "  ".join(map(str, [out / "results.jsonl", *pictures]))
        _print(frontier.table(rows), *_failures(rows), files)

    return sweep


def codecs(
    codecs: tuple[str, ...] = (),
    entries: int = 2**20,
    seed: int = 0,
    speed: bool = False,
    out: Path = Path("runs/codecs"),
) -> None:
    """Measure codecs on known and real sources: codecs.jsonl and codecs.png in a folder.

    Args:
        codecs: Codecs to measure; a default set unless given.
        entries: Entries of the two sources that are drawn.
        seed: Seed of all three sources.
        speed: Time encoding to bytes and decoding from them, and 16 clients under one vmap.
        out: Folder for the results; one that holds such results already is refused.

    """
    for text in codecs:
        codec(text)
    if entries < 1:
        raise ValueError(f"entries: expected at least 1, got {entries}.")
    results = _fresh(out, "codecs.jsonl")
    updates = frontier.sources(entries, seed=seed)
    rows = []
    for row in frontier.measure(codecs or CODECS_MEASURED, updates, speed=speed):
        jsonl.append(results, row)
        rows.append(row)
    picture = out / "codecs.png"
    frontier.draw_rate_distortion(rows, picture)
    _print(frontier.rate_distortion_table(rows), f"{results}  {picture}")


def bench(
    rungs: tuple[str, ...] = (),
    repeats: int = 5,
    compilation_cache: Path | None = None,
    out: Path = Path("runs/bench"),
) -> None:
    """Measure how fast rounds are here, for a ladder of sizes: bench.json in a folder.

    Args:
        rungs: Those to measure: short, tiny, middle, middle_lora, large_lora; all unless given.
        repeats: Rounds of which the median counts.
        compilation_cache: Folder in which compiled programs are kept for later commands.
        out: Folder for the results; one that holds such results already is refused.

    """
    unknown = [name for name in rungs if name not in LADDER]
    if unknown:
        raise ValueError(f"rungs: expected some of {', '.join(LADDER)}, got {unknown[0]}.")
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}.")
    results = _fresh(out, "bench.json")
    keep_programs(compilation_cache)
    rows = list(measured({name: LADDER[name] for name in rungs or LADDER}, repeats=repeats))
    jsonl.write(results, {"rungs": rows})
    _print(bench_table(rows), str(results))


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends it with one line on standard error and status 2."""
    args = sys.argv[1:] if args is None else list(args)
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "codecs": codecs,
        "bench": bench,
        "frontier": sweep_from(QUICK if "--quick" in args else RunConfig()),
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="fedjax-llm",
            description="Federated training of language models, with every byte counted.",
            args=args,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"fedjax-llm: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a folder to write to, got a file.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _fresh(out: Path, name: str) -> Path:
    """Where results of that name go, which are not there yet."""
    results = _folder(out) / name
    if results.exists():
        raise ValueError(f"{out}: expected a folder without results, got {name} in it.")
    return results


def keep_programs(folder: Path | None) -> None:
    """Compiled programs of this process are kept there, and taken from there."""
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(_folder(folder).absolute()))


def _failures(rows: Sequence[Row]) -> list[str]:
    """A line for each run in which updates were left out."""
    return [
        f"{row['codec']}, seed {row['seed']}: {row['failed']} updates were not finite and left out."
        for row in rows
        if row["failed"]
    ]


def _nats(row: Row) -> str:
    """What a row says of held-out text, in words."""
    return ", ".join(
        f"{row[key]:.4f} {key.replace('_', ' ')}"
        for which in ("heldout", "personal", "unseen")
        for what in ("nats_per_token", "nats_per_pair", "preferred")
        if (key := f"{which}_{what}") in row
    )


def _print(table: object, *lines: str) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
