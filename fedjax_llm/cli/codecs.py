"""`fedjax-llm codecs`."""

from pathlib import Path

from fedjax_compression import codec

from ..bench import draw_rate_distortion, measure, rate_distortion_table, sources
from ..bench.codecs import CODECS
from ..runs.live import Pace, minute_lines
from ..runs.registries import load_plugins
from ..runs.results import append_row
from .output import fresh_results, print_table


def codecs(
    codecs: tuple[str, ...] = (),
    entries: int = 2**20,
    seed: int = 0,
    speed: bool = False,
    plugin: tuple[str, ...] = (),
    out: Path = Path("runs/codecs"),
) -> None:
    """Measure codecs on known and real sources: codecs.jsonl and codecs.png in a folder.

    Args:
        codecs: Codecs to measure. Default: some fifty.
        entries: Entries of the two drawn sources.
        seed: Seed of all three sources.
        speed: Also time encoding to bytes and decoding from them, and 16 clients under one vmap.
        plugin: Modules that register codecs of your own.
        out: Folder for the results; one that already holds codecs.jsonl is refused.

    """
    load_plugins(plugin)
    for text in codecs:
        codec(text)
    if entries < 1:
        raise ValueError(f"entries: expected at least 1, got {entries}.")
    results = fresh_results(out, "codecs.jsonl")
    updates = sources(entries, seed=seed)
    rows = []
    pace = Pace(len(codecs or CODECS) * len(updates))
    with minute_lines("codecs") as say:
        for row in measure(codecs or CODECS, updates, speed=speed):
            append_row(results, row)
            rows.append(row)
            pace.done += 1
            say(f"{row['codec']}: {pace.done} of {pace.total} measured{pace.left()}")
    picture = out / "codecs.png"
    draw_rate_distortion(rows, picture)
    print_table(rate_distortion_table(rows), f"{results}  {picture}")
