"""Points of a study: runs that differ in nothing but their seed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..runs import Row, RunConfig
from .costs import BOTH, BYTES, Cost, cost_in, cost_to, unit
from .front import significant_front
from .groups import (
    Group,
    device_of,
    grouped,
    in_order,
    notes_on,
    seeds_text,
    several,
    want,
)
from .intervals import interval
from .settings import check_comparable, label, seed_of, varying


class Point(NamedTuple):
    """One configuration, averaged over its seeds.

    A mean is None where it was not measured, and a loss infinite where a seed diverged.

    Attributes:
        codec: The text of its uplink.
        cost: The cost that the front is drawn against.
        uplink_bytes: Bytes that clients sent.
        bits_per_parameter: Uplink bits per trainable parameter and message.
        nats: Loss on held-out data of training clients, per byte, token, pair or text.
        lowest: The smallest such loss over the seeds.
        highest: The largest.
        unseen_nats: The same loss on unseen clients.
        seconds: Wall-clock seconds of a run; None over runs of several machines.
        on_front: Whether the cost buys a significantly lower loss (`significant_front`).
        label: Its values of the fields that vary.
        fields: The same, by field.
        settings: All fields but the seed.
        seeds: Its seeds, in order.
        rows: A row for each seed.
        interval: Bootstrap interval of `nats` (`interval`); None for one seed.
        downlink_bytes: Bytes that the server sent.
        both_bytes: The sum of the two ways.
        simulated_seconds: Simulated seconds, for runs with a link.
        to_target: The cost to the target loss; infinite where a seed did not get there.
        to_target_interval: Its bootstrap interval.
        notes: What a reader must know: missing seeds, duplicates, divergence, several versions,
            values tuned to the end of their grid.

    """

    codec: str
    cost: float | int | None
    uplink_bytes: float | int | None
    bits_per_parameter: float | int | None
    nats: float | int | None
    lowest: float | int | None
    highest: float | int | None
    unseen_nats: float | int | None
    seconds: float | int | None
    on_front: bool
    label: str = ""
    fields: Mapping[str, Any] = {}
    settings: Mapping[str, Any] = {}
    seeds: tuple[Any, ...] = ()
    rows: tuple[Row, ...] = ()
    interval: tuple[float, float] | None = None
    downlink_bytes: float | int | None = None
    both_bytes: float | int | None = None
    simulated_seconds: float | int | None = None
    to_target: float | int | None = None
    to_target_interval: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def points(
    rows: Sequence[Row],
    cost: Cost = BYTES,
    *,
    target: float | int | None = None,
    wanted: Sequence[RunConfig | Row] = (),
) -> list[Point]:
    """One point for each configuration, in the order of the rows.

    Rows are one point if they differ in nothing but their seed: in no field of the configuration,
    and neither in the links, the availability, the imported adapter nor the attack's file that they
    read. Nothing else is averaged. Of two rows with one configuration and seed the last counts, as
    a note says; so do notes tell seeds that other points have, runs that diverged or were stopped,
    and rows of several versions or devices.

    Args:
        rows: Summary rows.
        cost: What the front is drawn against.
        target: Loss for `to_target`.
        wanted: Configurations that should have a row, as objects or as rows have them; those
            without are points too, or noted.

    Raises:
        ValueError: For rows whose losses cannot be compared, naming what differs: other data,
            another model, another evaluation, or contents that were not recorded.

    Example:
        >>> row = {"codec": "eden(bits=1)", "uplink_bytes": 8, "seconds": 1.0}
        >>> row |= {"uplink_bits_per_parameter": 1.0}
        >>> ours = [row | {"seed": s, "heldout_nats_per_byte": 2.0 + s} for s in (0, 1)]
        >>> (point,) = points(ours)
        >>> point.label, point.nats, point.interval, point.seeds
        ('eden(bits=1)', 2.5, (2.0, 3.0), (0, 1))

    """
    check_comparable(rows)
    groups = grouped(rows)
    for config in wanted:
        want(groups, config)
    names = varying([group.settings for group in groups.values()])
    seeds = {seed for group in groups.values() for seed in group.wanted}
    found = [_point(group, rows, names, seeds, cost, target) for group in groups.values()]
    by_seed = [losses(p.rows) for p in found]
    front = significant_front([np.inf if p.cost is None else p.cost for p in found], by_seed)
    return [p._replace(on_front=on) for p, on in zip(found, front, strict=True)]


def common_notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of all rows together: versions, devices, contents not recorded."""
    notes = [
        f"{len(counts)} {what}: {', '.join(f'{n} runs by {each}' for each, n in counts.items())}."
        for what, counts in several(rows).items()
    ]
    if rows and not any("contents" in row for row in rows):
        notes.append("An earlier version wrote these rows: which data they are of is not recorded.")
    return notes


def _point(
    group: Group,
    every: Sequence[Row],
    names: Sequence[str],
    seeds: set[Any],
    cost: Cost,
    target: float | int | None,
) -> Point:
    by_seed = {seed: every[group.runs[seed]] for seed in sorted(group.runs, key=in_order)}
    rows = list(by_seed.values())
    of_seeds = losses(rows)
    nats = np.array(list(of_seeds.values()))
    unseen = _numbers(rows, f"unseen_nats_per_{unit(rows)}")
    reached = [cost_to(row, target, cost) for row in rows] if target is not None else []
    costs = [cost_in(row, cost) for row in rows]
    devices = {device_of(row) for row in rows}
    return Point(
        codec=str(group.settings.get("uplink", "")),
        cost=_mean(costs),
        uplink_bytes=_mean(_column(rows, "uplink_bytes")),
        bits_per_parameter=_mean(_column(rows, "uplink_bits_per_parameter")),
        nats=float(nats.mean()) if nats.size else None,
        lowest=float(nats.min()) if nats.size else None,
        highest=float(nats.max()) if nats.size else None,
        unseen_nats=_mean(unseen),
        seconds=_mean(_column(rows, "seconds")) if len(devices) == 1 else None,
        on_front=False,
        label=label(group.settings, names),
        fields={name: group.settings.get(name) for name in names},
        settings=group.settings,
        seeds=tuple(by_seed),
        rows=tuple(rows),
        interval=interval(nats.tolist()),
        downlink_bytes=_mean(_column(rows, "downlink_bytes")),
        both_bytes=_mean([cost_in(row, BOTH) for row in rows]),
        simulated_seconds=_mean(_column(rows, "simulated_seconds")),
        to_target=_mean(reached),
        to_target_interval=interval([np.inf if each is None else each for each in reached]),
        notes=(
            *group.notes,
            *notes_on(by_seed, seeds),
            *_loss_notes(by_seed, of_seeds),
            *_target_notes(reached, target),
        ),
    )


def _loss_notes(rows: Mapping[Any, Row], losses: Mapping[Any, float | int]) -> list[str]:
    notes = []
    if diverged := [seed for seed, loss in losses.items() if not np.isfinite(loss)]:
        notes.append(f"{seeds_text(diverged)} diverged: no finite loss")
    unmeasured = [seed for seed in rows if seed not in losses]
    if unmeasured and losses:
        notes.append(f"{seeds_text(unmeasured)}: loss not measured")
    return notes


def _target_notes(reached: Sequence[float | int | None], target: float | int | None) -> list[str]:
    late = sum(each == np.inf for each in reached)
    return [f"{len(reached) - late} of {len(reached)} runs reached {target:g} nats"] if late else []


def losses(rows: Sequence[Row]) -> dict[Any, float | int]:
    """The losses of the seeds that have one; infinite where it was not finite."""
    name = f"heldout_nats_per_{unit(rows)}"
    return {seed_of(row): _finite(row[name]) for row in rows if name in row}


def _numbers(rows: Sequence[Row], name: str) -> list[float | int | None]:
    """Values of the rows that have one; infinite where it was not finite."""
    return [_finite(row[name]) for row in rows if name in row]


def _finite(value: float | int | None) -> float | int:
    return np.inf if value is None or not np.isfinite(value) else value


def _column(rows: Sequence[Row], name: str) -> list[float | int | None]:
    return [row.get(name) for row in rows]


def _mean(values: Sequence[float | int | None]) -> float | int | None:
    """The mean; None where one is missing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
