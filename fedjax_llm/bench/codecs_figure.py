"""Rates and errors of codecs as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fedjax_compression.text import Call, parse

from ..runs import Row
from ..studies.figure import MARKERS

LARGEST = 4.0
"""Larger errors are drawn on the upper edge; sending nothing has error 1."""
SMALLEST = 1e-12
"""Smaller errors are those of a mean in float32, and are not drawn."""


class Point(NamedTuple):
    """A codec's error at its bits per entry."""

    family: str
    rate: float
    error: float


def draw_codecs(means: Sequence[Row], rows: Sequence[Row], path: Path) -> None:
    """Error against bits per entry: of the mean at each round above, of one message below.

    The rates of one codec are joined and share a colour and a marker. Below, Shannon's bound for a
    Gaussian is drawn. Exact codecs are left out, because the error axis is logarithmic; errors
    above `LARGEST` are drawn on the upper edge. The PNG is the same for the same rows.

    Args:
        means: Rows of `measure_means`; without any, there are no panels above.
        rows: Rows of `measure`.
        path: File to write.

    """
    import matplotlib  # noqa: PLC0415 - takes half a second, and few runs draw
    from matplotlib.figure import Figure  # noqa: PLC0415

    above = _panels(means, "round", "error_of_mean")
    below = _panels(rows, "source", "error")
    families = list(dict.fromkeys(family(row["codec"]) for row in rows))
    order = np.arange(len(families)) * 0.618 % 1  # neighbours far apart
    colours = matplotlib.colormaps["turbo"](0.03 + 0.94 * order)
    styles = {
        kind: {"color": colour, "marker": MARKERS[number % len(MARKERS)]}
        for number, (kind, colour) in enumerate(zip(families, colours, strict=True))
    }
    columns = max(len(above), len(below))
    figure = Figure(
        figsize=(4.2 * columns + 3.4, 5.2 * (1 + bool(above)) + 0.4), layout="constrained"
    )
    grid = figure.subplots(1 + bool(above), columns, sharex=True, sharey="row", squeeze=False)
    if above:
        for axes, (number, points) in zip(grid[0], above.items(), strict=False):
            _draw(axes, points, styles)
            axes.set_title(f"mean of {means[0]['clients']} clients, round {number}")
        grid[0][0].set_ylabel("squared error of the mean / its squared norm")
    for axes, (name, points) in zip(grid[-1], below.items(), strict=False):
        rates = np.geomspace(0.05, 12, 200)
        axes.plot(rates, 4.0**-rates, color="black", linewidth=1, label="Shannon, Gaussian")
        _draw(axes, points, styles)
        axes.set_title(name)
        axes.set_xlabel("bits per entry, header and all")
    grid[-1][0].set_ylabel("squared error / squared norm")
    for panels, row in zip((above, below)[not above :], grid, strict=True):
        least = min((point.error for points in panels.values() for point in points), default=0.01)
        row[0].set_ylim(least / 2, LARGEST)
    for axes in grid.flat:
        axes.set_visible(axes.has_data())
    handles, labels = grid[-1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=90, metadata={"Software": None})


def _panels(rows: Sequence[Row], panel: str, error: str) -> dict[Any, list[Point]]:
    """Points by the value of a field; a codec without error is not among them."""
    out: dict[Any, list[Point]] = {row[panel]: [] for row in rows}
    for row in rows:
        if SMALLEST < row[error] < np.inf:
            point = Point(family(row["codec"]), row["bits_per_entry"], row[error])
            out[row[panel]].append(point)
    return out


def _draw(axes: Any, points: Sequence[Point], styles: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    for kind, style in styles.items():
        own = sorted(
            (point.rate, min(point.error, LARGEST)) for point in points if point.family == kind
        )
        axes.plot(
            [rate for rate, _ in own],
            [error for _, error in own],
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.4,
            linewidth=0.8,
            clip_on=not own,  # whole markers at the edge; an empty line has no extent
            zorder=3,
            label=kind,
            **style,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)


def family(text: str) -> str:
    """A codec without its hyper-parameters: `chain(top_k, eden)`."""
    return _family(parse(text))


def _family(call: Call) -> str:
    inner = ", ".join(_family(argument) for argument in call.args if isinstance(argument, Call))
    return f"{call.name}({inner})" if inner else call.name
