"""A study as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..runs import Row, RunConfig
from .costs import BYTES, Cost, evaluated, unit
from .edges import parts
from .points import Point, points
from .settings import label
from .table import UNCOMPRESSED

MARKERS = "osv^<>PXphd*"


def draw(
    rows: Sequence[Row],
    path: Path,
    cost: Cost = BYTES,
    *,
    target: float | int | None = None,
    highest: float | int | None = None,
    wanted: Sequence[RunConfig | Row] = (),
) -> None:
    """Draw held-out loss against a cost, with the Pareto front and the uncompressed runs.

    Where rounds were evaluated a thin line leads to a point, through the means over its seeds. Bars
    are bootstrap intervals over the seeds. Points whose names differ in their numbers alone, such
    as eden(bits=1) and eden(bits=2), have one colour and a dashed line through them. Names leave
    out what was tuned. A name stands beside its point, with a line to it where there is no room
    beside it, and in a legend where there is none at all. A point above the highest loss is on the
    upper edge, with its loss in its name. A point of which a run diverged is a cross above the
    others, at its cost, and says so; one that lacks seeds says how many it has; those without a
    loss are left out. The PNG is the same for the same rows.

    Args:
        rows: Summary rows.
        path: File to write.
        cost: Uplink bytes by default.
        target: Loss to draw a line at.
        highest: Largest loss to show. Default: that of the points.
        wanted: Configurations that should have a row.

    """
    import matplotlib  # noqa: PLC0415 - takes half a second, and few runs draw
    from matplotlib.colors import to_rgb  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import LogLocator  # noqa: PLC0415

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.add_subplot()
    found = points(rows, cost, wanted=wanted)
    shown = sorted(
        (p for p in found if p.nats is not None and p.cost is not None),
        key=lambda p: -(p.uplink_bytes or 0),
    )
    finite = [p for p in shown if p.nats is not None and np.isfinite(p.nats)]
    top = max((_ends(p)[1] for p in finite), default=1.0)
    top = top if highest is None else min(top, highest)
    short = _short_names(shown)
    kinds = [parts(name)[0] for name in short]
    families = list(dict.fromkeys(kinds))
    palette = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(families)))
    colours = [palette[families.index(kind)] for kind in kinds]
    alone = sum(p.codec == UNCOMPRESSED for p in shown) == 1
    names = []
    for number, (p, colour) in enumerate(zip(shown, colours, strict=True)):
        plain, lost = p.codec == UNCOMPRESSED, p not in finite
        above = float(p.nats or 0) > top
        low, high = (top, top) if above else _ends(p)
        nats = top if above else float(p.nats or 0)
        of_family = MARKERS[families.index(kinds[number]) % len(MARKERS)]
        name = _name(p, short[number]) + (f", at {p.nats:.3f}" if above and not lost else "")
        (line, *_) = axes.errorbar(
            (p.cost or 0) / cost.unit,
            nats,
            yerr=[[nats - low], [high - nats]],
            marker="x" if lost else "D" if plain else of_family,
            markersize=9 if plain else 7,
            color="black" if plain and alone else colour,
            linestyle="",
            capsize=3,
            label=name,
        )
        along = curve(p, cost)
        axes.plot(
            [at / cost.unit for at, _ in along],
            [loss for _, loss in along],
            color=line.get_color(),
            linewidth=0.8,
            alpha=0.7,
        )
        dark = 0.6 * np.array(to_rgb(line.get_color()))  # yellow is hard to read
        to_point = {"arrowstyle": "-", "linewidth": 0.8, "color": dark, "shrinkA": 0, "shrinkB": 4}
        names.append(
            axes.annotate(
                name,
                ((p.cost or 0) / cost.unit, nats),
                (8, 5),
                textcoords="offset points",
                fontsize=8,
                color=dark,
                arrowprops=to_point,
            )
        )
    for family, colour in zip(families, palette, strict=True):
        own = sorted(
            (p.cost / cost.unit, float(p.nats or 0))
            for p, kind in zip(shown, kinds, strict=True)
            if kind == family and p in finite and p.cost is not None and float(p.nats or 0) <= top
        )
        if len(own) > 1:
            axes.plot(*zip(*own, strict=True), color=colour, linestyle="--", linewidth=1, zorder=0)
    front = sorted(
        (p.cost / cost.unit, p.nats) for p in finite if p.on_front and p.cost is not None
    )
    axes.plot(
        *(zip(*front, strict=True) if front else ((), ())),
        color="grey",
        zorder=0,
        label="Pareto front",
    )
    if target is not None:
        axes.axhline(target, color="grey", linestyle="--", label="target")
    if rows and (bigram := rows[0].get("heldout_bigram_nats_per_byte")):
        axes.axhline(bigram, color="grey", linestyle=":", label="byte bigram")
    if shown and all(p.cost for p in shown):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    if finite:  # not the lines that lead to points, which begin at the loss of an untrained model
        bottom = min(_ends(p)[0] for p in finite)
        edge = (top - bottom) or 0.1
        axes.set_ylim(bottom - 0.08 * edge, top + 0.08 * edge)
    axes.set_xlabel(cost.label)
    axes.set_ylabel(f"held-out nats per {unit(rows)}")
    axes.grid(alpha=0.3)
    _name_points(figure, axes, names, front)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def curve(point: Point, cost: Cost) -> list[tuple[float, float]]:
    """Mean cost and mean loss at each evaluation that all seeds have, the last of the run too."""
    seeds = [evaluated(row, cost) for row in point.rows]
    shared = set.intersection(*(set(each) for each in seeds)) if seeds else set()
    found = [np.mean([each[number] for each in seeds], axis=0) for number in sorted(shared)]
    return [(float(at), float(loss)) for at, loss in found] if len(found) > 1 else []


def _name_points(figure: Any, axes: Any, names: Sequence[Any], front: Sequence[Any]) -> None:
    """Put each name where it meets no other name and no point, as near to its own as there is room.

    A name beside its point is nearer to it than to others, and off the front's line where there is
    room; one farther away has a line to it. If there is no room for all, the names go into a
    legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.path import Path as Line  # noqa: PLC0415
    from matplotlib.text import Text  # noqa: PLC0415

    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    placed: list[Any] = []
    markers = axes.transData.transform([name.xy for name in names])
    line = Line(axes.transData.transform(front)) if len(front) > 1 else None
    for number, name in enumerate(names):
        for (offset, side), far, on_line in PLACES:
            name.set_position(offset)
            name.set_horizontalalignment(side)
            name.arrow_patch.set_visible(far)
            name.update_positions(figure.canvas.get_renderer())
            box = Text.get_window_extent(name)
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            inside &= axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
            meets = any(box.overlaps(other) for other in placed)
            gaps = [_gap(box, *marker) for marker in markers]
            nearest = gaps.count(min(gaps)) == 1 and min(gaps) == gaps[number]
            if line and not on_line:
                meets |= line.intersects_bbox(box, filled=False)
            if inside and not meets and (min(gaps) > 0 if far else nearest):
                placed.append(box)
                break
        else:
            for each in names:
                each.remove()
            figure.legend(loc="outside right upper", fontsize=8, frameon=False)
            return
    handles, labels = axes.get_legend_handles_labels()
    own = [(h, text) for h, text in zip(handles, labels, strict=True) if text in REFERENCES]
    # where a curve that falls has room; "best" takes seconds, and warns of it, on a busy machine
    axes.legend(*zip(*own, strict=True), loc="upper right", fontsize=8, frameon=False)


def _gap(box: Any, x: float, y: float) -> float:
    """Squared distance of a place from a box, 0 inside."""
    across, up = max(box.x0 - x, x - box.x1, 0.0), max(box.y0 - y, y - box.y1, 0.0)
    return across**2 + up**2


NEAR = (
    *(((8.0, 5.0), "left"), ((-8.0, 5.0), "right"), ((8.0, -12.0), "left")),
    *(((-8.0, -12.0), "right"), ((0.0, 10.0), "center"), ((0.0, -18.0), "center")),
    *(((8.0, 18.0), "left"), ((-8.0, 18.0), "right")),
    *(((8.0, -25.0), "left"), ((-8.0, -25.0), "right")),
)
FAR = tuple(
    ((across * away, up * away), side)
    for away in (30.0, 50.0, 75.0, 105.0)
    for across, side in ((0.7, "left"), (-0.7, "right"))
    for up in (0.5, -0.5, 1.0, -1.0)
)
PLACES = (
    *((place, False, False) for place in NEAR),
    *((place, False, True) for place in NEAR),
    *((place, True, True) for place in FAR),
)
"""Where a name may stand, in points from its marker, and its alignment; whether it then has a line
to its marker; and whether it may lie on the front's line."""
REFERENCES = ("Pareto front", "byte bigram", "target")


def _short_names(shown: Sequence[Point]) -> list[str]:
    """The points' labels without the fields that were tuned, if that still tells them apart."""
    tuned = {name for p in shown for row in p.rows for name in row.get("tuned_fields", ())}
    names = [[name for name in p.fields if name not in tuned] for p in shown]
    short = [label(dict(p.settings), kept) for p, kept in zip(shown, names, strict=True)]
    return short if len(set(short)) == len(short) else [p.label for p in shown]


def _name(point: Point, short: str) -> str:
    """A point's name, with what must be known of it."""
    said = [short]
    if short == UNCOMPRESSED:
        said.append("uncompressed")
    if point.nats is not None and not np.isfinite(point.nats):
        said.append("diverged")
    elif any(note.startswith("no finished run") for note in point.notes):
        said.append(f"{len(point.rows)} seed{'s' * (len(point.rows) != 1)} alone")
    return ", ".join(said)


def _ends(point: Point) -> tuple[float, float]:
    nats = float(point.nats or 0)
    return point.interval or (nats, nats)
