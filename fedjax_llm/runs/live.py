"""A live progress bar on a terminal; silent elsewhere."""

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
"""Name of a row's training loss, before its unit."""


@contextmanager
def live_progress(title: str, *, rounds: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A progress bar of rounds with loss, uplink bytes and time left.

    Yields a function that takes each round's row.
    """
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
    """A number of bytes as MiB or GiB, to three digits."""
    return f"{count / 2**20:.3g} MiB" if count < 2**30 else f"{count / 2**30:.3g} GiB"
