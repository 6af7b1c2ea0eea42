"""`fedjax-llm bench`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..bench import LADDER, WORKS, against_table, against_torch, bench_table
from ..bench import bench as measured
from ..runs import Row
from ..runs.live import Pace, minute_lines
from ..runs.results import write_object
from .output import OFF, fresh_results, keep_programs, print_table


def bench(
    rungs: tuple[str, ...] = (),
    repeats: int = 5,
    against: Literal["torch"] | None = None,
    compilation_cache: Path = OFF,
    out: Path = Path("runs/bench"),
) -> None:
    """Measure the speed of rounds on this machine for a ladder of sizes: bench.json in a folder.

    Args:
        rungs: Sizes to measure: short, short_eden, tiny, middle, middle_lora, large_lora; default
            all. With --against middle_lora, middle, small, and if named middle_lora_bfloat16, which
            takes minutes on a processor without a unit for bfloat16.
        repeats: Rounds to time; the median is reported.
        against: Whole rounds beside a plain loop over the same clients in this library, which must
            be installed: 'fedjax-llm[parity]' for torch.
        compilation_cache: Folder in which compiled programs are kept for later commands. By
            default `off`, as first compiles are measured.
        out: Folder for the results; one that already holds bench.json is refused.

    """
    ladder = LADDER if against is None else WORKS
    unknown = [name for name in rungs if name not in ladder]
    if unknown:
        raise ValueError(f"rungs: expected some of {', '.join(ladder)}, got {unknown[0]}.")
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}.")
    results = fresh_results(out, "bench.json")
    keep_programs(compilation_cache)
    chosen = rungs or tuple(name for name in ladder if not name.endswith("bfloat16"))
    coming: Iterator[Row]
    if against is None:
        coming = measured({name: LADDER[name] for name in chosen}, repeats=repeats)
    else:
        coming = against_torch({name: WORKS[name] for name in chosen}, repeats=repeats)
    rows: list[Row] = []
    pace = Pace(len(chosen))
    with minute_lines("bench") as tell:
        for row in coming:
            rows.append(row)
            write_object(results, {"rungs": rows})
            pace.done += 1
            tell(f"{pace.done} of {pace.total} sizes measured{pace.left()}")
    print_table(bench_table(rows) if against is None else against_table(rows), str(results))
