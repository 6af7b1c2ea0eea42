"""A sweep as a table in the terminal."""

from collections.abc import Sequence
from math import isfinite

from rich import box
from rich.table import Table

from ..runs import Row
from ..runs.live import mebibytes
from .front import SECONDS, cost_of, points, unit

UNCOMPRESSED = "identity()"
"""The codec that others are compared with."""


def table(rows: Sequence[Row]) -> Table:
    """One line per codec, most bytes first; * marks the Pareto front.

    The front is drawn against simulated seconds where all rows have them, else against bytes.
    Columns: bytes sent by clients, how many times fewer than uncompressed, bits per trainable
    parameter and message, held-out nats per byte, token, pair or text of training clients, the
    difference to uncompressed, nats of unseen clients, wall-clock seconds, and simulated seconds.
    What was not measured is blank.
    """
    cost = cost_of(rows)
    timed = cost is SECONDS
    shown = sorted(points(rows, cost), key=lambda p: -p.uplink_bytes)
    reference = next((p for p in shown if p.codec == UNCOMPRESSED), None)
    title = f"Held-out nats per {unit(rows)} against {cost.words}"
    out = Table(title=title, box=box.SIMPLE_HEAD)
    out.add_column("")
    out.add_column("codec", min_width=20, overflow="fold")
    for name in ("uplink", "fewer", "bits", "seen", "more", "unseen", "s", *(["link s"] * timed)):
        out.add_column(name, justify="right", no_wrap=True)
    for p in shown:
        out.add_row(
            "*" if p.on_front else "",
            p.codec,
            mebibytes(p.uplink_bytes),
            f"{reference.uplink_bytes / p.uplink_bytes:.1f}x"
            if reference and p.uplink_bytes
            else "",
            f"{p.bits_per_parameter:.3f}",
            _nats(p.nats),
            _more(p.nats, reference and reference.nats),
            _nats(p.unseen_nats),
            f"{p.seconds:.1f}",
            *([f"{p.cost:.4g}"] * timed),
        )
    if "heldout_bigram_nats_per_byte" in rows[0]:
        seen, unseen = (
            _nats(rows[0].get(name))
            for name in ("heldout_bigram_nats_per_byte", "unseen_bigram_nats_per_byte")
        )
        out.add_section()
        out.add_row("", "byte bigram, on the same text", "", "", "", seen, "", unseen)
    return out


def _nats(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isfinite(value) else "diverged"


def _more(value: float | None, reference: float | None) -> str:
    if value is None or reference is None or not (isfinite(value) and isfinite(reference)):
        return ""
    return f"{value - reference:+.4f}"
