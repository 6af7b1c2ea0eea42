"""The frontier as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ..runs import Row
from .pareto import points, unit
from .table import UNCOMPRESSED

MARKERS = "osv^<>PXphd*"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Held-out loss against uplink bytes, the Pareto front drawn and the uncompressed run marked.

    Bars span the seeds. Writes a PNG that is the same for the same rows.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.add_subplot()
    shown = sorted((p for p in points(rows) if np.isfinite(p.nats)), key=lambda p: -p.uplink_bytes)
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(shown)))
    for number, (p, colour) in enumerate(zip(shown, colours, strict=True)):
        plain = p.codec == UNCOMPRESSED
        axes.errorbar(
            p.uplink_bytes / 2**20,
            p.nats,
            yerr=[[p.nats - p.lowest], [p.highest - p.nats]],
            marker="D" if plain else MARKERS[number % len(MARKERS)],
            markersize=9 if plain else 7,
            color="black" if plain else colour,
            linestyle="",
            capsize=3,
            label=f"{p.codec}, uncompressed" if plain else p.codec,
        )
    front = [(p.uplink_bytes / 2**20, p.nats) for p in shown if p.on_front]
    axes.plot(*zip(*front, strict=True), color="grey", zorder=0, label="Pareto front")
    if bigram := rows[0].get("heldout_bigram_nats_per_byte"):
        axes.axhline(bigram, color="grey", linestyle=":", label="byte bigram")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("sent by all clients over the run (MiB)")
    axes.set_ylabel(f"held-out nats per {unit(rows)}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
