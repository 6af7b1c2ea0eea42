"""What loss is drawn against: bytes one or both ways, or simulated seconds; whole or to a loss."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple

from ..runs import Row


class Cost(NamedTuple):
    """The cost that loss is drawn against.

    Attributes:
        field: The row's field that holds it; "both_bytes" is the sum of the two ways.
        words: Its name in a table's title.
        label: Label of a figure's axis.
        unit: What the field is divided by for that axis.
        file: Name of its picture.

    """

    field: str
    words: str
    label: str
    unit: float
    file: str


BYTES = Cost(
    "uplink_bytes",
    "bytes sent by clients",
    "sent by all clients over the run (MiB)",
    2.0**20,
    "frontier.png",
)
DOWNLINK = Cost(
    "downlink_bytes",
    "bytes sent to clients",
    "sent to all clients over the run (MiB)",
    2.0**20,
    "downlink.png",
)
BOTH = Cost(
    "both_bytes",
    "bytes sent both ways",
    "sent both ways over the run (MiB)",
    2.0**20,
    "both.png",
)
SECONDS = Cost(
    "simulated_seconds",
    "simulated seconds",
    "simulated seconds of the run on its link",
    1.0,
    "seconds.png",
)
COSTS: Mapping[str, Cost] = {
    "uplink": BYTES,
    "downlink": DOWNLINK,
    "both": BOTH,
    "seconds": SECONDS,
}
"""The costs by the name that `--costs` takes."""


def unit(rows: Sequence[Row]) -> str:
    """What the rows' loss is a mean over: "byte", "token", "pair" or "text"."""
    first = rows[0] if rows else {}
    return first.get("unit", "pair" if "heldout_nats_per_pair" in first else "byte")


def cost_of(rows: Sequence[Row]) -> Cost:
    """`SECONDS` where every row has simulated seconds, else `BYTES`."""
    return SECONDS if rows and all(SECONDS.field in row for row in rows) else BYTES


def cost_in(row: Row, cost: Cost) -> float | int | None:
    """A row's cost; None where the run has none."""
    if cost is BOTH:
        ways = row.get("uplink_bytes"), row.get("downlink_bytes")
        return None if ways[0] is None or ways[1] is None else ways[0] + ways[1]
    return row.get(cost.field)


def cost_to(row: Row, target: float | int, cost: Cost) -> float | int | None:
    """The cost until a loss on held-out text was at most a target.

    It is that of all rounds up to the first evaluation with such a loss: the evaluations are those
    of every k-th round (`evaluate_every`) and the one after the last round.

    Args:
        row: A summary row.
        target: The loss, in nats.
        cost: The cost.

    Returns:
        The cost; infinite where the run did not get there or diverged; None where no round was
        evaluated before the last, or the run has no such cost.

    Example:
        >>> row = {"rounds": 3, "uplink_bytes_by_round": [10, 10, 10], "unit": "byte"}
        >>> row["evaluations"] = [
        ...     {"round": 1, "heldout_nats_per_byte": 4.0},
        ...     {"round": 2, "heldout_nats_per_byte": 3.0},
        ... ]
        >>> cost_to(row, 3.5, BYTES), cost_to(row, 2.5, BYTES)
        (20, inf)

    """
    if "evaluations" not in row or _after_rounds(row, cost) is None:
        return None
    return next((at for at, loss in evaluated(row, cost).values() if loss <= target), inf)


def evaluated(row: Row, cost: Cost) -> dict[int, tuple[float | int, float | int]]:
    """The cost and the finite loss at each evaluation, by round; that after the last round too."""
    after = _after_rounds(row, cost)
    if after is None or "rounds" not in row:
        return {}
    name = f"heldout_nats_per_{unit([row])}"
    measured = {each["round"]: each.get(name) for each in row.get("evaluations", ())}
    measured[row["rounds"]] = row.get(name)
    return {n: (after[n - 1], loss) for n, loss in measured.items() if loss is not None}


def _after_rounds(row: Row, cost: Cost) -> list[float | int] | None:
    """The cost after each round."""
    if cost is SECONDS:
        return row.get("simulated_seconds_by_round")
    ways = ("uplink", "downlink") if cost is BOTH else (cost.field.removesuffix("_bytes"),)
    columns = [row.get(f"{way}_bytes_by_round") for way in ways]
    found = [column for column in columns if column is not None]
    if len(found) < len(ways):
        return None
    return list(accumulate(map(sum, zip(*found, strict=True))))
