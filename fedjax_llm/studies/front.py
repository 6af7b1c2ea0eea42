"""Points of a sweep, and its Pareto front: the runs that no other beats in cost and loss."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..runs import Row
from ..runs.contents import check_contents


class Cost(NamedTuple):
    """The cost that loss is drawn against.

    Attributes:
        field: The row's field that holds it.
        words: Its name in a table's title.
        label: Label of a figure's axis.
        unit: What the field is divided by for that axis.

    """

    field: str
    words: str
    label: str
    unit: float


BYTES = Cost(
    "uplink_bytes", "bytes sent by clients", "sent by all clients over the run (MiB)", 2.0**20
)
SECONDS = Cost(
    "simulated_seconds", "simulated seconds", "simulated seconds of the run on its link", 1.0
)


class Point(NamedTuple):
    """One codec, averaged over its seeds.

    Attributes:
        codec: Its text.
        cost: The cost that the front is drawn against.
        uplink_bytes: Bytes that clients sent.
        bits_per_parameter: Uplink bits per trainable parameter and message.
        nats: Loss on held-out data of training clients, per byte, token, pair or text; infinite
            where a run diverged, None where it was not measured.
        lowest: The smallest such loss over the seeds.
        highest: The largest.
        unseen_nats: The same loss on unseen clients.
        seconds: Wall-clock seconds of a run.
        on_front: Whether no other codec is at most as large in cost and loss and smaller in one.

    """

    codec: str
    cost: float
    uplink_bytes: float
    bits_per_parameter: float
    nats: float | None
    lowest: float | None
    highest: float | None
    unseen_nats: float | None
    seconds: float
    on_front: bool


def unit(rows: Sequence[Row]) -> str:
    """What the rows' loss is a mean over: "byte", "token", "pair" or "text"."""
    first = rows[0] if rows else {}
    return first.get("unit", "pair" if "heldout_nats_per_pair" in first else "byte")


def cost_of(rows: Sequence[Row]) -> Cost:
    """`SECONDS` where every row has simulated seconds, else `BYTES`."""
    return SECONDS if all(SECONDS.field in row for row in rows) else BYTES


def points(rows: Sequence[Row], cost: Cost = BYTES) -> list[Point]:
    """One point per codec, in the order of the rows; runs that diverged have infinite nats.

    Raises `ValueError` for rows made from different contents, naming what differs.
    """
    if any("contents" in row for row in rows):
        for row in rows:
            where = f"the row of {rows[0]['codec']}, seed {rows[0]['seed']}"
            check_contents(rows[0].get("contents"), row.get("contents", {}), where=where)
    by_codec: dict[str, list[Row]] = {}
    for row in rows:
        by_codec.setdefault(row["codec"], []).append(row)
    means = [_mean(codec, group, cost) for codec, group in by_codec.items()]
    front = pareto_front([(p.cost, np.inf if p.nats is None else p.nats) for p in means])
    return [p._replace(on_front=on) for p, on in zip(means, front, strict=True)]


def pareto_front(costs: Sequence[tuple[float, float]]) -> list[bool]:
    """For each (cost, loss): whether no other is at most as large in both and smaller in one.

    Example:
        >>> pareto_front([(1.0, 3.0), (2.0, 2.0), (3.0, 3.0)])
        [True, True, False]

    """
    array = np.asarray(costs, float).reshape(-1, 2)
    return [
        bool(np.isfinite(cost).all())
        and not ((array <= cost).all(axis=1) & (array < cost).any(axis=1)).any()
        for cost in array
    ]


def _mean(codec: str, rows: Sequence[Row], cost: Cost) -> Point:
    def over_seeds(name: str) -> np.ndarray:
        """The values of the seeds that have one; infinite where it was not finite."""
        values = [row[name] for row in rows if name in row]
        return np.array([np.inf if value is None else value for value in values], float)

    per = f"nats_per_{unit(rows)}"
    nats, unseen = (over_seeds(f"{which}_{per}") for which in ("heldout", "unseen"))
    return Point(
        codec,
        over_seeds(cost.field).mean(),
        over_seeds("uplink_bytes").mean(),
        over_seeds("uplink_bits_per_parameter").mean(),
        nats.mean() if nats.size else None,
        nats.min() if nats.size else None,
        nats.max() if nats.size else None,
        unseen.mean() if unseen.size else None,
        over_seeds("seconds").mean(),
        on_front=False,
    )
