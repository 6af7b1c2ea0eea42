"""Where a run stands, on a terminal; silent elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

TRAIN = "train_nats_per_"
"""What a row's training loss is called, before what it is counted by."""


@contextmanager
def live_progress(title: str, *, rounds: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar of rounds with loss, uplink bytes and time left; the value takes each round's row."""
    console = Console(stderr=True)
    sent = 0
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[seen]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = bar.add_task(title, total=rounds, seen="")

    def each(row: dict[str, Any]) -> None:
        nonlocal sent
        sent += row["uplink_bytes"]
        name = next(key for key in row if key.startswith(TRAIN))
        loss = f"train {row[name]:.3f} nats/{name.removeprefix(TRAIN)}"
        bar.update(task, advance=1, seen=f"{loss}  up {mebibytes(sent)}")

    with bar:
        yield each


def mebibytes(count: float | int) -> str:
    """Bytes as MiB, to three figures."""
    return f"{count / 2**20:.3g} MiB" if count < 2**30 else f"{count / 2**30:.3g} GiB"
