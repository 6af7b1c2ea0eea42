"""A study as a table in the terminal."""

from collections.abc import Sequence
from math import isfinite, nan

from rich import box
from rich.table import Table

from ..runs import Row, RunConfig
from ..runs.live import mebibytes
from .costs import BOTH, DOWNLINK, SECONDS, Cost, cost_of, unit
from .points import Point, common_notes, losses, points
from .settings import Settings

UNCOMPRESSED = "identity()"
"""The codec that others are compared with."""


def table(
    rows: Sequence[Row],
    cost: Cost | None = None,
    *,
    target: float | int | None = None,
    wanted: Sequence[RunConfig | Row] = (),
) -> Table:
    """One line per point, most bytes first; * marks the Pareto front.

    The front is drawn against simulated seconds where all rows have them, else against bytes,
    unless `cost` says otherwise, and counts what is significant (`significant_front`). Columns:
    bytes sent by clients, how many times fewer than uncompressed, bits per trainable parameter and
    message, held-out nats per byte, token, pair or text of training clients, the difference to
    uncompressed over the seeds that both have, nats of unseen clients, wall-clock seconds; and
    where they say something: the bootstrap interval, bytes sent to clients or both ways, simulated
    seconds, the cost to the target loss, and seeds. Uncompressed is the point that differs in its
    uplink alone, and in what was tuned for each. What was not measured is blank. Below are
    notes, point by point.
    """
    cost = cost or cost_of(rows)
    shown = sorted(points(rows, cost, target=target, wanted=wanted), key=_bytes_first)
    title = f"Held-out nats per {unit(rows)} against {cost.words}"
    out = Table(title=title, box=box.SIMPLE_HEAD, caption="\n".join(notes(rows, shown)) or None)
    out.caption_justify = "left"
    out.add_column("")
    out.add_column("codec" if _codecs_alone(shown) else "configuration", min_width=20)
    out.columns[1].overflow = "fold"
    more = _more_columns(shown, cost, target)
    for name in ("uplink", "fewer", "bits", "seen", "more", "unseen", "s", *more):
        out.add_column(name, justify="right", no_wrap=True)
    for p in shown:
        reference = _uncompressed(p, shown)
        out.add_row(
            "*" if p.on_front else "",
            p.label,
            _mebibytes(p.uplink_bytes),
            f"{reference.uplink_bytes / p.uplink_bytes:.1f}x"
            if reference and reference.uplink_bytes and p.uplink_bytes
            else "",
            "" if p.bits_per_parameter is None else f"{p.bits_per_parameter:.3f}",
            _nats(p.nats),
            _more(p, reference),
            _nats(p.unseen_nats),
            "" if p.seconds is None else f"{p.seconds:.1f}",
            *(column(p) for column in more.values()),
        )
    if rows and "heldout_bigram_nats_per_byte" in rows[0]:
        seen, unseen = (
            _nats(rows[0].get(name))
            for name in ("heldout_bigram_nats_per_byte", "unseen_bigram_nats_per_byte")
        )
        out.add_section()
        out.add_row("", "byte bigram, on the same text", "", "", "", seen, "", unseen)
    return out


def notes(rows: Sequence[Row], shown: Sequence[Point]) -> list[str]:
    """What a reader of the points must know: one line each."""
    return [f"{p.label}: {note}." for p in shown for note in p.notes] + common_notes(rows)


def _more_columns(shown: Sequence[Point], cost: Cost, target: float | int | None) -> dict:
    """Further columns by title: `(point) -> cell`."""
    found = {}
    if any(p.interval for p in shown):
        found["interval"] = lambda p: _ends(p.interval)
    if cost in (DOWNLINK, BOTH):
        found["down"] = lambda p: _mebibytes(p.downlink_bytes)
        found["both"] = lambda p: _mebibytes(p.both_bytes)
    if any(p.simulated_seconds is not None for p in shown):
        found["link s"] = lambda p: (
            "" if p.simulated_seconds is None else f"{p.simulated_seconds:.4g}"
        )
    if target is not None:
        found[f"to {target:g}"] = lambda p: _reached(p.to_target, cost)
    if any(len(p.seeds) > 1 for p in shown) or any(p.notes for p in shown):
        found["seeds"] = lambda p: str(len(p.rows))
    return found


def _codecs_alone(shown: Sequence[Point]) -> bool:
    return all(set(p.fields) <= {"uplink"} for p in shown)


def _uncompressed(point: Point, shown: Sequence[Point]) -> Point | None:
    """The uncompressed point that is alike but for the uplink and what was tuned for each."""
    free = {"uplink"} | {name for row in point.rows for name in row.get("tuned_fields", ())}
    alike = [
        p for p in shown if p.codec == UNCOMPRESSED and _without(p, free) == _without(point, free)
    ]
    return alike[0] if len(alike) == 1 else None


def _without(point: Point, names: set[str]) -> Settings:
    return {name: value for name, value in point.settings.items() if name not in names}


def _bytes_first(point: Point) -> float | int:
    return 0.0 if point.uplink_bytes is None else -point.uplink_bytes


def _mebibytes(count: float | int | None) -> str:
    return "" if count is None else mebibytes(count)


def _reached(value: float | int | None, cost: Cost) -> str:
    if value is None:
        return ""
    if not isfinite(value):
        return "not reached"
    return f"{value:.4g}" if cost is SECONDS else mebibytes(value)


def _ends(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"


def _nats(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isfinite(value) else "diverged"


def _more(point: Point, reference: Point | None) -> str:
    """The mean difference over the seeds that both have, as losses differ more between seeds."""
    mine, theirs = (losses(p.rows) if p else {} for p in (point, reference))
    shared = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
    difference = sum(shared) / len(shared) if shared else nan
    return f"{difference:+.4f}" if isfinite(difference) else ""
