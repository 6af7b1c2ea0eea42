"""Who has how much of what: a partition as rows, as a table and as a picture."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from ..readers.examples import Example, Examples, check_no_client_is_empty


class PieceRange(NamedTuple):
    """One client's part."""

    client: str
    examples: int
    characters: int
    labels: dict[str, int]
    """Examples by label, of every label that any client has."""
    skew: float
    """Total variation distance of the client's labels from everyone's: 0 is alike, 1 disjoint."""


def partition(examples: Examples) -> list[PieceRange]:
    """Every client's part, sorted by name.

    Raises `ValueError` for a client without examples, by its name.
    """
    check_no_client_is_empty(examples, who="partition")
    by_client = {c: Counter(example.label for example in examples[c]) for c in sorted(examples)}
    everyone = sum(by_client.values(), Counter())
    total = everyone.total()
    return [
        PieceRange(
            client,
            own.total(),
            sum(map(_characters, examples[client])),
            {label: own[label] for label in sorted(everyone)},
            sum(abs(own[x] / own.total() - everyone[x] / total) for x in everyone) / 2,
        )
        for client, own in by_client.items()
    ]


def partition_table(examples: Examples) -> Table:
    """One line per client: its examples, characters, skew, and examples by label."""
    parts = partition(examples)
    labels = list(parts[0].labels) if parts else []
    out = Table(title="Clients and what they hold", box=box.SIMPLE_HEAD)
    out.add_column("client")
    for name in ("examples", "characters", "skew", *labels):
        out.add_column(name or "no label", justify="right")
    for part in parts:
        counts = map(str, part.labels.values())
        out.add_row(
            part.client, str(part.examples), str(part.characters), f"{part.skew:.3f}", *counts
        )
    return out


def draw_partition(examples: Examples, path: Path) -> None:
    """Share of each label by client as stacked bars, and the examples of each client above.

    Writes a PNG that is the same for the same examples.
    """
    parts = partition(examples)
    labels = list(parts[0].labels)
    place = np.arange(len(parts))
    figure = Figure(figsize=(min(4 + 0.25 * len(parts), 14) + 2.5, 5), layout="constrained")
    sizes, shares = figure.subplots(2, sharex=True, height_ratios=(1, 3))
    sizes.bar(place, [part.examples for part in parts], width=0.9, color="grey")
    sizes.set_ylabel("examples")
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(labels)))
    floor = np.zeros(len(parts))
    for label, colour in zip(labels, colours, strict=True):
        share = np.array([part.labels[label] / part.examples for part in parts])
        shares.bar(place, share, bottom=floor, width=0.9, color=colour, label=label or "no label")
        floor += share
    shares.set_ylim(0, 1)
    shares.set_ylabel("share of label")
    few = len(parts) <= 40
    shares.set_xticks(place if few else [], [p.client for p in parts] if few else [], rotation=90)
    shares.set_xlabel("" if few else f"{len(parts)} clients, sorted by name")
    handles, names = shares.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _characters(example: Example) -> int:
    if isinstance(example.text, str):
        return len(example.text)
    return sum(len(message.content) for message in example.text)
