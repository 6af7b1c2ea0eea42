"""Points of a sweep, and its Pareto front: the runs that no other beats in cost and loss."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..runs import Row


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
        nats: Loss on held-out data of training clients, per byte, token, pair or text.
        lowest: The smallest such loss over the seeds.
        highest: The largest.
        unseen_nats: Loss on unseen clients; infinite where there are none.
        seconds: Wall-clock seconds of a run.
        on_front: Whether no other codec is at most as large in cost and loss and smaller in one.

    """

    codec: str
    cost: float
    uplink_bytes: float
    bits_per_parameter: float
    nats: float
    lowest: float
    highest: float
    unseen_nats: float
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
    """One point per codec, in the order of the rows; runs that diverged have infinite nats."""
    by_codec: dict[str, list[Row]] = {}
    for row in rows:
        by_codec.setdefault(row["codec"], []).append(row)
    means = [_mean(codec, group, cost) for codec, group in by_codec.items()]
    front = pareto_front([(p.cost, p.nats) for p in means])
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
        values = [row.get(name) for row in rows]
        return np.array([np.inf if value is None else value for value in values], float)

    per = f"nats_per_{unit(rows)}"
    nats = over_seeds(f"heldout_{per}")
    return Point(
        codec,
        over_seeds(cost.field).mean(),
        over_seeds("uplink_bytes").mean(),
        over_seeds("uplink_bits_per_parameter").mean(),
        nats.mean(),
        nats.min(),
        nats.max(),
        over_seeds(f"unseen_{per}").mean(),
        over_seeds("seconds").mean(),
        on_front=False,
    )
