"""A sweep: one run per configuration, stored as rows; stored rows are not run again."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fedjax_compression import Compressor

from ..runs import Named, Row, RunConfig, execute, execute_together, keeping_last, prepare
from ..runs.contents import Contents, check_contents
from ..runs.csv_rows import append_csv, write_csv
from ..runs.live import Live, Pace, line, live_progress, mebibytes, on_terminal
from ..runs.quality import Watched
from ..runs.results import append_row, read_rows
from .costs import unit
from .settings import identity, label, settings, varying

CODECS = (
    "identity()",
    "stochastic_quantize(bits=4)",
    "eden(bits=1)",
    "eden(bits=0.25)",
    "eden(bits=0.1)",
    "preconditioned(trellis_fixed(bits=0.25))",
    "preconditioned(trellis_fixed(bits=0.1))",
    "error_feedback(top_k(fraction=0.1))",
)
"""The codecs of the default sweep."""

QUICK_CODECS = (
    "identity()",
    "stochastic_quantize(bits=4)",
    "eden(bits=1)",
    "eden(bits=0.1)",
    "preconditioned(trellis_fixed(bits=0.1))",
    "error_feedback(top_k(fraction=0.1))",
)
"""The codecs of the quick sweep."""


def configurations(
    base: RunConfig, codecs: Sequence[str] | Mapping[str, Compressor], seeds: Sequence[int]
) -> dict[RunConfig, Contents]:
    """The base configuration with each codec on the uplink and each seed, and what each run reads.

    Args:
        base: What the runs have in common.
        codecs: Codecs as texts; or `Compressor` objects by the text that names them in rows.
        seeds: Seeds.

    Returns:
        The configurations in the order of their runs, with the digests of their contents.

    Raises:
        ValueError: For a wrong field of `base` or a wrong codec, and where there is no held-out
            text, before anything runs.

    """
    if isinstance(codecs, Mapping):
        codecs = [Named(text, value) for text, value in codecs.items()]
    return built(
        dataclasses.replace(base, uplink=codec, seed=seed) for seed in seeds for codec in codecs
    )


def built(wanted: Iterable[RunConfig]) -> dict[RunConfig, Contents]:
    """Build each configuration, before any runs; return them with what they read.

    Raises `ValueError` for one that cannot be built, for one without held-out text, and for none.
    """
    configs = list(wanted)
    found: dict[int, tuple[RunConfig, Contents]] = {}
    said: set[str] = set()
    read = keeping_last()
    # a seed draws the population, so that those of one seed may read the same
    for number in sorted(range(len(configs)), key=lambda number: configs[number].seed):
        run = prepare(configs[number], read=read)
        for each in run.left_out:
            if each not in said:
                line(each)
        said |= set(run.left_out)
        if not run.evaluated.heldout.names:
            raise ValueError(
                f"heldout: expected held-out text, by which codecs are compared, got none by "
                f"{run.config.heldout}; give a larger share or text of its own."
            )
        found[number] = run.config, run.contents
        del run  # with its model, before the next is read
    if not found:
        raise ValueError("frontier: expected at least one codec and one seed, got none.")
    return dict(found[number] for number in range(len(configs)))


def sweep(
    configs: Mapping[RunConfig, Contents],
    results: Path,
    *,
    together: bool = False,
    what: str = "",
) -> Iterator[Row]:
    """Yield the summary row of each configuration; run those whose row is missing.

    Rows of an earlier version, which recorded no contents, are read where no run is missing.

    Args:
        configs: The configurations, from `configurations`.
        results: File of rows (JSON lines); new rows are appended, and to a CSV file beside it.
        together: Run configurations that differ only in their seed as one program.
        what: What opens each line of progress.

    Raises:
        ValueError: For a file with a line that is no row; for a row made from other contents than
            `configs` say, naming what differs; for data that changes during the sweep.

    """
    rows = {}
    before = read_rows(results)
    for number, row in enumerate(before, start=1):
        if not isinstance(row.get("config"), dict):
            raise ValueError(f"{results}: line {number}: expected a row with config, got {row}.")
        rows[identity(row["config"])] = row
    stored = [rows.get(_of(config)) for config in configs]
    if any(row is None or "contents" in row for row in stored):
        for (config, contents), old in zip(configs.items(), stored, strict=True):
            if old:
                where = f"the row of {config.uplink}, seed {config.seed}, in {results}"
                check_contents(old.get("contents"), contents, where=where)
    as_csv = results.with_suffix(".csv")
    if before:
        write_csv(as_csv, before)
    given = [settings({"config": dataclasses.asdict(config)}) for config in configs]
    names = varying(given)
    pace = Pace(sum(row is None for row in stored))
    for number, config in enumerate(configs, start=1):
        if _of(config) not in rows:
            missing = [
                each
                for each in configs
                if each == config
                or (together and _of(each) not in rows and _but_seed(each) == _but_seed(config))
            ]
            which = label(given[number - 1], names)
            title = f"{what}{number}/{len(configs)} {which}, seed {config.seed}"
            with live_progress(title, rounds=config.rounds) as show:
                for new in _executed(missing, configs, show):
                    rows[identity(new["config"])] = new
                    append_row(results, new)
                    append_csv(as_csv, new)
            pace.done += len(missing)
            if not on_terminal():
                done = rows[_of(config)]
                loss = done.get(f"heldout_nats_per_{unit([done])}")
                nats = "diverged" if loss is None else f"{loss:.4f} nats per {unit([done])}"
                line(f"{title}: {nats}, {mebibytes(done['uplink_bytes'])} up{pace.left()}")
        yield rows[_of(config)]


def _executed(
    configs: Sequence[RunConfig],
    contents: Mapping[RunConfig, Contents],
    show: Live,
) -> list[Row]:
    runs = [prepare(config) for config in configs]
    for config, run in zip(configs, runs, strict=True):
        check_contents(contents[config], run.contents, where="this sweep when it began")
    return (
        [execute(runs[0], show, Watched(show.evaluating))]
        if len(runs) == 1
        else execute_together(runs, show, Watched(show.evaluating))
    )


def _but_seed(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, seed=0)


def _of(config: RunConfig) -> str:
    return identity(dataclasses.asdict(config))
