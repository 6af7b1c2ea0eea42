"""Points of a study: runs that differ in nothing but their seed."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from ..runs import Row, RunConfig, canonical
from .costs import BOTH, BYTES, Cost, cost_in, cost_to, unit
from .front import significant_front
from .intervals import interval
from .settings import Settings, check_comparable, label, settings, varying


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
        notes: What a reader must know: missing seeds, duplicates, divergence, several versions.

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
    and neither in the links, the availability nor the imported adapter that they read. Nothing else
    is averaged. Of two rows with one configuration and seed the last counts, as a note says; so do
    notes tell seeds that other points have, runs that diverged or were stopped, and rows of several
    versions or devices.

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
    groups: dict[str, _Group] = {}
    for row in rows:
        _group(groups, settings(row)).add(row)
    for config in wanted:
        _want(groups, config)
    names = varying([group.settings for group in groups.values()])
    seeds = {seed for group in groups.values() for seed in group.wanted}
    found = [_point(group, names, seeds, cost, target) for group in groups.values()]
    losses = [_losses(p.rows) for p in found]
    front = significant_front([np.inf if p.cost is None else p.cost for p in found], losses)
    return [p._replace(on_front=on) for p, on in zip(found, front, strict=True)]


def common_notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of all rows together: versions, devices, contents not recorded."""
    notes = [
        f"{len(counts)} {what}: {', '.join(f'{n} runs by {each}' for each, n in counts.items())}."
        for what, of in (("versions", _version), ("devices", _device))
        if len(counts := Counter(map(of, rows))) > 1
    ]
    if rows and not any("contents" in row for row in rows):
        notes.append("An earlier version wrote these rows: which data they are of is not recorded.")
    return notes


class _Group:
    """Rows of one point: those that count, by seed, and what to know of them."""

    def __init__(self, of: Settings) -> None:
        self.settings = of
        self.wanted: set[Any] = set()
        self.rows: dict[Any, Row] = {}
        self.notes: list[str] = []

    def add(self, row: Row) -> None:
        seed = row.get("seed")
        self.wanted.add(seed)
        if at := row.get("stopped"):
            self.notes.append(
                f"seed {seed}: not counted, as its evaluation was stopped at {at['what']} "
                f"{at['done']} of {at['of']}"
            )
            return
        if seed in self.rows:
            same = self.rows[seed].get("digest") == row.get("digest") is not None
            which = "one digest" if same else "other numbers"
            self.notes.append(f"seed {seed}: there twice, with {which}; the last counts")
        self.rows[seed] = row


def _group(groups: dict[str, _Group], of: Settings) -> _Group:
    return groups.setdefault(json.dumps(of, sort_keys=True), _Group(of))


def _want(groups: dict[str, _Group], config: RunConfig | Row) -> None:
    """Note that a configuration should have a row, whatever it reads."""
    given = asdict(canonical(config)) if isinstance(config, RunConfig) else config
    of = settings({"config": given})
    for group in groups.values():
        configured = {n: v for n, v in group.settings.items() if not n.startswith("contents.")}
        if configured == of:
            group.wanted.add(given["seed"])
            return
    _group(groups, of).wanted.add(given["seed"])


def _point(
    group: _Group, names: Sequence[str], seeds: set[Any], cost: Cost, target: float | int | None
) -> Point:
    rows = [group.rows[seed] for seed in sorted(group.rows, key=_order)]
    losses = _losses(rows)
    nats = np.array(list(losses.values()))
    unseen = _numbers(rows, f"unseen_nats_per_{unit(rows)}")
    reached = [cost_to(row, target, cost) for row in rows] if target is not None else []
    costs = [cost_in(row, cost) for row in rows]
    devices = {_device(row) for row in rows}
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
        seeds=tuple(row.get("seed") for row in rows),
        rows=tuple(rows),
        interval=interval(nats.tolist()),
        downlink_bytes=_mean(_column(rows, "downlink_bytes")),
        both_bytes=_mean([cost_in(row, BOTH) for row in rows]),
        simulated_seconds=_mean(_column(rows, "simulated_seconds")),
        to_target=_mean(reached),
        to_target_interval=interval([np.inf if each is None else each for each in reached]),
        notes=tuple(_notes(group, losses, seeds, reached, target)),
    )


def _notes(
    group: _Group,
    losses: Mapping[Any, float | int],
    seeds: set[Any],
    reached: Sequence[float | int | None],
    target: float | int | None,
) -> list[str]:
    notes = list(group.notes)
    if missing := sorted(seeds - group.rows.keys(), key=_order):
        notes.append(f"no finished run of {_seeds(missing)}")
    if diverged := [seed for seed, loss in losses.items() if not np.isfinite(loss)]:
        notes.append(f"{_seeds(diverged)} diverged: no finite loss")
    if group.rows and len(unmeasured := group.rows.keys() - losses.keys()) not in (
        0,
        len(group.rows),
    ):
        notes.append(f"{_seeds(sorted(unmeasured, key=_order))}: loss not measured")
    late = sum(each == np.inf for each in reached)
    if late:
        notes.append(f"{len(reached) - late} of {len(reached)} runs reached {target:g} nats")
    for what, of in (("versions", _version), ("devices", _device)):
        if len(several := sorted({of(row) for row in group.rows.values()})) > 1:
            notes.append(f"mean over {what} {' and '.join(several)}")
    return notes


def _losses(rows: Sequence[Row]) -> dict[Any, float | int]:
    """The losses of the seeds that have one; infinite where it was not finite."""
    name = f"heldout_nats_per_{unit(rows)}"
    return {row.get("seed"): _finite(row[name]) for row in rows if name in row}


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


def _seeds(seeds: Sequence[Any]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _order(seed: Any) -> tuple[bool, Any]:
    return (seed is not None, seed)


def _version(row: Row) -> str:
    known = row.get("versions") or {}
    return ", ".join(f"{name} {known[name]}" for name in ("fedjax-llm", "jax") if name in known)


def _device(row: Row) -> str:
    return row.get("device") or "not recorded"
