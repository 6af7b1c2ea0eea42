"""Speed of whole rounds beside a plain PyTorch loop over the same clients."""

import importlib.metadata
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

import jax
from rich import box
from rich.table import Table

from ..runs import Row, versions
from .torch_loop import torch_module, torch_round
from .works import Work, rounds_of


def against_torch(works: Mapping[str, Work], *, repeats: int = 5) -> Iterator[Row]:
    """Yield a row for each workload, with what a round takes here and in PyTorch.

    Here a round is one of `simulate` as users call it: it draws batches, computes, and makes and
    measures every message, with the cohort spread over all devices. PyTorch's makes no messages,
    and is tried with one thread and with as many as there are devices here. Rounds alternate in one
    process. Compare on an idle machine: other load slows PyTorch's threads more than ours.

    Fields: `ours` and `torch`, each with `wall` and `cpu`, medians in seconds; the latter of the
    fastest dtype and number of `threads`; `ratio`, PyTorch's wall time over ours, above 1 where
    ours is faster; `ratio_cpu`, the same of CPU seconds.

    Args:
        works: Workloads by name.
        repeats: Rounds to time; one more before them compiles.

    Raises:
        ModuleNotFoundError: Where PyTorch is not installed.

    """
    torch, counts = torch_module(), sorted({1, jax.device_count()})

    def threaded(once: Callable[[], None], threads: int) -> None:
        torch.set_num_threads(threads)
        once()

    for name, work in works.items():
        with closing(rounds_of(work)) as rounds:
            loops = {dtype: torch_round(work, dtype) for dtype in work.torch_dtypes}
            ways = {
                (dtype, threads): partial(threaded, once, threads)
                for dtype, once in loops.items()
                for threads in counts
            }
            times = _alternating({None: rounds.__next__, **ways}, repeats)
        ours = times.pop(None)
        dtype, threads = fastest = min(ways, key=lambda way: times[way]["wall"])
        theirs = times[fastest]
        yield {
            "rung": name,
            "ours": ours,
            "torch": {"dtype": dtype, "threads": threads, **theirs},
            "ratio": theirs["wall"] / ours["wall"],
            "ratio_cpu": theirs["cpu"] / ours["cpu"],
            "devices": jax.device_count(),
            "versions": {**versions(), "torch": importlib.metadata.version("torch")},
        }


def against_table(rows: list[Row]) -> Table:
    """One line for each workload."""
    table = Table(box=box.SIMPLE)
    table.add_column("rung")
    for name in ("ours s", "PyTorch s", "PyTorch / ours", "of CPU s"):
        table.add_column(name, justify="right")
    table.add_column("PyTorch's dtype")
    table.add_column("threads", justify="right")
    for row in rows:
        ours, theirs = row["ours"], row["torch"]
        table.add_row(
            row["rung"],
            f"{ours['wall']:.2f}",
            f"{theirs['wall']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['ratio_cpu']:.2f}",
            theirs["dtype"],
            str(theirs["threads"]),
        )
    return table


def _alternating(
    runs: Mapping[Any, Callable[[], Any]], repeats: int
) -> dict[Any, dict[str, float]]:
    """Median wall and CPU seconds of each, one call of each in turn."""
    seen: dict[Any, list[tuple[float, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if repeat:  # the first compiles
                seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: {
            "wall": statistics.median(wall for wall, _ in times),
            "cpu": statistics.median(cpu for _, cpu in times),
        }
        for name, times in seen.items()
    }
