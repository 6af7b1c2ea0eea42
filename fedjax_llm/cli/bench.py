"""`fedjax-llm bench`."""

from pathlib import Path

from ..bench import LADDER, bench_table
from ..bench import bench as measured
from ..runs import Row
from ..runs.live import Pace, minute_lines
from ..runs.results import write_object
from .output import OFF, fresh_results, keep_programs, print_table


def bench(
    rungs: tuple[str, ...] = (),
    repeats: int = 5,
    compilation_cache: Path = OFF,
    out: Path = Path("runs/bench"),
) -> None:
    """Measure the speed of rounds on this machine for a ladder of sizes: bench.json in a folder.

    Args:
        rungs: Sizes to measure: short, tiny, middle, middle_lora, large_lora. Default: all.
        repeats: Rounds to time; the median is reported.
        compilation_cache: Folder in which compiled programs are kept for later commands. By
            default `off`, as first compiles are measured.
        out: Folder for the results; one that already holds bench.json is refused.

    """
    unknown = [name for name in rungs if name not in LADDER]
    if unknown:
        raise ValueError(f"rungs: expected some of {', '.join(LADDER)}, got {unknown[0]}.")
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}.")
    results = fresh_results(out, "bench.json")
    keep_programs(compilation_cache)
    sizes = {name: LADDER[name] for name in rungs or LADDER}
    rows: list[Row] = []
    pace = Pace(len(sizes))
    with minute_lines("bench") as tell:
        for row in measured(sizes, repeats=repeats):
            rows.append(row)
            write_object(results, {"rungs": rows})
            pace.done += 1
            tell(f"{pace.done} of {pace.total} sizes measured{pace.left()}")
    print_table(bench_table(rows), str(results))
