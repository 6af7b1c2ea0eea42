"""A sweep as a table in the terminal."""

from collections.abc import Sequence

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
            f"{reference.uplink_bytes / p.uplink_bytes:.1f}x" if reference else "",
            f"{p.bits_per_parameter:.3f}",
            f"{p.nats:.4f}",
            f"{p.nats - reference.nats:+.4f}" if reference else "",
            f"{p.unseen_nats:.4f}",
            f"{p.seconds:.1f}",
            *([f"{p.cost:.4g}"] * timed),
        )
    if "heldout_bigram_nats_per_byte" in rows[0]:
        seen, unseen = (
            "" if rows[0].get(name) is None else f"{rows[0][name]:.4f}"
            for name in ("heldout_bigram_nats_per_byte", "unseen_bigram_nats_per_byte")
        )
        out.add_section()
        out.add_row("", "byte bigram, on the same text", "", "", "", seen, "", unseen)
    return out
