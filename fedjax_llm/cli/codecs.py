"""`fedjax-llm codecs`."""

from pathlib import Path

from fedjax_compression import codec

from ..bench import (
    cohorts,
    draw_codecs,
    mean_table,
    measure,
    measure_means,
    rate_distortion_table,
    sources,
)
from ..bench.codecs import CODECS
from ..bench.cohorts import ROUNDS
from ..runs import Row
from ..runs.live import Pace, minute_lines
from ..runs.registries import load_plugins
from ..runs.results import append_row
from .output import fresh_results, print_table


def codecs(
    codecs: tuple[str, ...] = (),
    entries: int = 2**20,
    seed: int = 0,
    means: bool = True,
    speed: bool = False,
    plugin: tuple[str, ...] = (),
    out: Path = Path("runs/codecs"),
) -> None:
    """Measure codecs: the error of the mean of 32 clients' updates in three rounds of a run
    (means.jsonl), and the error of one message on known and real sources (codecs.jsonl).

    The error of the mean is what a training run pays for. Its picture is codecs.png.

    Args:
        codecs: Codecs to measure. Default: some sixty.
        entries: Entries of the two drawn sources.
        seed: Seed of all sources, and of the run.
        means: Measure the error of the mean; the run takes a minute or two.
        speed: Also time encoding to bytes and decoding from them, and 16 clients under one vmap.
        plugin: Modules that register codecs of your own.
        out: Folder for the results; one that already holds codecs.jsonl is refused.

    """
    load_plugins(plugin)
    for text in codecs:
        codec(text)
    if entries < 1:
        raise ValueError(f"entries: expected at least 1, got {entries}.")
    texts = codecs or CODECS
    results, of_means = fresh_results(out, "codecs.jsonl"), fresh_results(out, "means.jsonl")
    rows: dict[Path, list[Row]] = {of_means: [], results: []}
    with minute_lines("codecs") as say:
        kept = []
        if means:
            for cohort in cohorts(ROUNDS, seed=seed):
                kept.append(cohort)
                say(f"the updates of round {cohort.round} are drawn")
        updates = sources(entries, seed=seed)
        pace = Pace(len(texts) * (len(kept) + len(updates)))
        measured = {
            of_means: measure_means(texts, kept),
            results: measure(texts, updates, speed=speed),
        }
        for file, each in measured.items():
            for row in each:
                append_row(file, row)
                rows[file].append(row)
                pace.done += 1
                say(f"{row['codec']}: {pace.done} of {pace.total} measured{pace.left()}")
    picture = out / "codecs.png"
    draw_codecs(rows[of_means], rows[results], picture)
    if means:
        print_table(mean_table(rows[of_means]), str(of_means))
    print_table(rate_distortion_table(rows[results]), f"{results}  {picture}")
