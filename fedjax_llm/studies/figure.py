"""A sweep as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..runs import Row
from .front import BYTES, Cost, points, unit
from .table import UNCOMPRESSED

MARKERS = "osv^<>PXphd*"


def draw(rows: Sequence[Row], path: Path, cost: Cost = BYTES) -> None:
    """Draw held-out loss against a cost, with the Pareto front and the uncompressed run.

    Bars span the seeds. Codecs whose loss was not measured, or is not finite, are left out. The PNG
    is the same for the same rows.

    Args:
        rows: Summary rows.
        path: File to write.
        cost: Uplink bytes by default.

    """
    import matplotlib  # noqa: PLC0415 - takes half a second, and few runs draw
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.add_subplot()
    found = points(rows, cost)
    shown = sorted(
        (p for p in found if p.nats is not None and np.isfinite(p.nats)),
        key=lambda p: -p.uplink_bytes,
    )
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(shown)))
    for number, (p, colour) in enumerate(zip(shown, colours, strict=True)):
        plain = p.codec == UNCOMPRESSED
        nats, lowest, highest = np.array([p.nats, p.lowest, p.highest], float)
        axes.errorbar(
            p.cost / cost.unit,
            nats,
            yerr=[[nats - lowest], [highest - nats]],
            marker="D" if plain else MARKERS[number % len(MARKERS)],
            markersize=9 if plain else 7,
            color="black" if plain else colour,
            linestyle="",
            capsize=3,
            label=f"{p.codec}, uncompressed" if plain else p.codec,
        )
    front = sorted((p.cost / cost.unit, p.nats) for p in shown if p.on_front)
    axes.plot(*zip(*front, strict=True), color="grey", zorder=0, label="Pareto front")
    if bigram := rows[0].get("heldout_bigram_nats_per_byte"):
        axes.axhline(bigram, color="grey", linestyle=":", label="byte bigram")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(cost.label)
    axes.set_ylabel(f"held-out nats per {unit(rows)}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=150, metadata={"Software": None})
