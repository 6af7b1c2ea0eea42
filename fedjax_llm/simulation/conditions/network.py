"""How fast clients send, receive and compute: from bytes and steps to seconds."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

_COLUMNS = ("uplink", "downlink", "latency", "step")


class Links(NamedTuple):
    """The links of some clients, and their speed."""

    uplink: Float[np.ndarray, " clients"]
    """Bits per second from the client."""
    downlink: Float[np.ndarray, " clients"]
    """Bits per second to it."""
    latency: Float[np.ndarray, " clients"]
    """Seconds that a message takes beside its bits, each way."""
    step: Float[np.ndarray, " clients"]
    """Seconds of a local step."""


class Network(NamedTuple):
    """The links of a federation."""

    links: Callable[[Sequence[str]], Links]
    """`(names) -> links` of clients by name."""


def link(
    *,
    uplink: float | int,
    downlink: float | int,
    latency: float | int = 0.0,
    step: float | int = 0.0,
) -> Network:
    """One link for every client: bits per second up and down, seconds of latency each way, and
    seconds of a local step.

    Raises `ValueError` unless the speeds are above 0 and the times at least 0.
    """
    given = {"uplink": uplink, "downlink": downlink, "latency": latency, "step": step}
    row = _checked(given, "link")
    return Network(lambda names: Links(*(np.full(len(names), value) for value in row)))


def links(path: str) -> Network:
    """A link for each client, from a table: CSV with a header, or JSON lines where the name ends
    in .jsonl, with `client`, `uplink`, `downlink`, and `latency` and `step`, which are 0 unless
    there; as `link` says.

    Raises `ValueError` for what is not such a table, by its line, for a client that is there
    twice, and, where the run begins, for one that is not there; `OSError` without the file.
    """
    table: dict[str, tuple[float, ...]] = {}
    for where, row in _rows(Path(path)):
        client = row.get("client")
        if not isinstance(client, str) or not client or client in table:
            raise ValueError(f"{where}: client: expected a name, and each once, got {client!r}.")
        given = {name: _number(row.get(name), where, name) for name in _COLUMNS}
        table[client] = _checked(given, where)

    def of(names: Sequence[str]) -> Links:
        missing = [name for name in names if name not in table]
        if missing:
            raise ValueError(
                f"{path}: expected a link for each of {len(names)} clients, got none for "
                f"{len(missing)}, such as {missing[0]!r}."
            )
        columns = np.array([table[name] for name in names], float).reshape(-1, len(_COLUMNS))
        return Links(*columns.T)

    return Network(of)


def arrivals(
    links: Links, *, down: int, steps: Int[np.ndarray, " clients"], up: Int[np.ndarray, " clients"]
) -> Float[np.ndarray, " clients"]:
    """Seconds from the moment at which the server sends `down` bytes to each client until it has
    all of the client's `up` bytes: two latencies, both messages at the link's speeds, and the
    steps between them. Links are shared with nobody.
    """
    sending = 8.0 * down / links.downlink + 8.0 * up / links.uplink
    return 2 * links.latency + sending + links.step * steps


def _rows(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes.") from None
    lines = text.splitlines()
    if path.suffix != ".jsonl":
        try:
            for number, row in enumerate(csv.DictReader(lines, strict=True), start=2):
                yield f"{path}: line {number}", row
        except csv.Error as error:
            raise ValueError(f"{path}: expected a table in CSV, got one where {error}.") from None
        return
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{path}: line {number}: expected a JSON object, got {line[:40]!r}.")
        yield f"{path}: line {number}", found


def _number(value: Any, where: str, name: str) -> float:
    if value in (None, "") and name in ("latency", "step"):
        return 0.0
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: {name}: expected a number, got {value!r}.") from None


def _checked(given: Mapping[str, float | int], where: str) -> tuple[float, ...]:
    """The values in order."""
    for name in ("uplink", "downlink"):
        if isinstance(given[name], bool) or not given[name] > 0:
            raise ValueError(f"{where}: {name} must be above 0 bits a second, got {given[name]!r}.")
    for name in ("latency", "step"):
        if isinstance(given[name], bool) or not 0 <= given[name] < float("inf"):
            raise ValueError(f"{where}: {name} must be at least 0 seconds, got {given[name]!r}.")
    return tuple(float(given[name]) for name in _COLUMNS)
