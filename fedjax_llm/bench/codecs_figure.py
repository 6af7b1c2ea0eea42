"""Rate and distortion of codecs as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fedjax_compression.text import Call, parse

from ..runs import Row
from ..studies.figure import MARKERS

LARGEST = 4.0
"""Larger errors are drawn on the upper edge; sending nothing has error 1."""


def draw_rate_distortion(rows: Sequence[Row], path: Path) -> None:
    """Error against bits per entry, a panel for each source, with Shannon's bound for a Gaussian.

    The rates of one codec are joined and share a colour and a marker. Exact codecs are left out,
    because the error axis is logarithmic; errors above `LARGEST` are drawn on the upper edge.
    The PNG is the same for the same rows.

    Args:
        rows: Rows of `measure`.
        path: File to write.

    """
    import matplotlib  # noqa: PLC0415 - takes half a second, and few runs draw
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    names = list(dict.fromkeys(row["source"] for row in rows))
    shown = [row for row in rows if 0 < row["error"] < np.inf]
    families = list(dict.fromkeys(family(row["codec"]) for row in shown))
    order = np.arange(len(families)) * 0.618 % 1  # neighbours far apart
    colours = matplotlib.colormaps["turbo"](0.03 + 0.94 * order)
    figure = Figure(figsize=(4.2 * len(names) + 3.4, 5.6), layout="constrained")
    panels = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    least = min((row["error"] for row in shown), default=0.01)
    rates = np.geomspace(0.05, 12, 200)
    for axes, name in zip(panels, names, strict=True):
        axes.plot(rates, 4.0**-rates, color="black", linewidth=1, label="Shannon, Gaussian")
        for number, (kind, colour) in enumerate(zip(families, colours, strict=True)):
            points = sorted(
                (row["bits_per_entry"], min(row["error"], LARGEST))
                for row in shown
                if row["source"] == name and family(row["codec"]) == kind
            )
            axes.plot(
                [rate for rate, _ in points],
                [error for _, error in points],
                marker=MARKERS[number % len(MARKERS)],
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.4,
                linewidth=0.8,
                color=colour,
                clip_on=not points,  # whole markers at the edge; an empty line has no extent
                zorder=3,
                label=kind,
            )
        axes.set_title(name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(least / 2, LARGEST)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel("bits per entry, header and all")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("squared error / squared norm")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def family(text: str) -> str:
    """A codec without its hyper-parameters: `chain(top_k, eden)`."""
    return _family(parse(text))


def _family(call: Call) -> str:
    inner = ", ".join(_family(argument) for argument in call.args if isinstance(argument, Call))
    return f"{call.name}({inner})" if inner else call.name
