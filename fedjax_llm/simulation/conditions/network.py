"""Speeds of clients' links and local steps: from bytes and steps to simulated seconds."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fedjax_compression.checks import check_kind
from fedjax_compression.errors import message
from jaxtyping import Float, Int

from ...data.readers.rows import client_rows
from ..checks import check_above_zero, check_seconds

_COLUMNS = ("uplink", "downlink", "latency", "step")


class Links(NamedTuple):
    """The links of some clients and the speed of their local steps: NumPy arrays `[clients]`.

    Attributes:
        uplink: Bits per second from the client.
        downlink: Bits per second to the client.
        latency: Seconds that each message takes in addition to its bits, each way.
        step: Seconds of one local step.

    """

    uplink: Float[np.ndarray, " clients"]
    downlink: Float[np.ndarray, " clients"]
    latency: Float[np.ndarray, " clients"]
    step: Float[np.ndarray, " clients"]


class Network(NamedTuple):
    """The links of a federation.

    Attributes:
        links: `(names) -> links`: the `Links` of clients, given their names.

    """

    links: Callable[[Sequence[str]], Links]


def link(
    *,
    uplink: float | int,
    downlink: float | int,
    latency: float | int = 0.0,
    step: float | int = 0.0,
) -> Network:
    """Give every client the same link and the same speed.

    Args:
        uplink: Bits per second from a client to the server, above 0.
        downlink: Bits per second from the server to a client, above 0.
        latency: Seconds that a message takes in addition to its bits, each way; 0 by default.
        step: Seconds of one local step; 0 by default.

    Returns:
        The network, for `Conditions`.

    Raises:
        ValueError: For a speed that is not above 0, or a time that is negative or infinite.

    Example:
        >>> from fedjax_llm.simulation import link
        >>> network = link(uplink=1e6, downlink=1e7, latency=0.1)
        >>> network.links(["ann", "bob"]).uplink
        array([1000000., 1000000.])

    """
    given = {"uplink": uplink, "downlink": downlink, "latency": latency, "step": step}
    row = _checked(given, "link")
    return Network(lambda names: Links(*(np.full(len(names), value) for value in row)))


def links(path: str) -> Network:
    r"""Read a link for each client from a table.

    Args:
        path: A CSV file with a header, or JSON if the name ends in `.json` or `.jsonl`; either may
            be compressed by gzip. The columns are `client` (its name), `uplink`, `downlink`,
            `latency` and `step`, in the units of `link`; `latency` and `step` may be missing or
            empty and are then 0.

    Returns:
        The network, for `Conditions`. Its `links` raises `ValueError` if a client is not in the
        table.

    Raises:
        TypeError: For a path of another kind.
        ValueError: Naming the line, for a malformed table, a value out of range, a second row of
            one client, or a client that is a number and the same digits as text.
        OSError: If the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> from fedjax_llm.simulation import links
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "links.csv")
        >>> _ = path.write_text("client,uplink,downlink,step\nann,1e6,1e7,0.5\nbob,2e6,1e7,")
        >>> links(str(path)).links(["bob", "ann"]).step
        array([0. , 0.5])
        >>> folder.cleanup()

    """
    check_kind(path, (str, os.PathLike), who="links", name="path", expected="the path of a table")
    table: dict[str, tuple[float, ...]] = {}
    for where, client, row in client_rows(Path(path)):
        if client in table:
            raise ValueError(
                message(where, "client", "the name of a client without an earlier row", client)
            )
        given = {name: _number(row.get(name), where, name) for name in _COLUMNS}
        table[client] = _checked(given, where)

    def links_of(names: Sequence[str]) -> Links:
        missing = [name for name in names if name not in table]
        if missing:
            raise ValueError(
                f"{path}: expected a link for each of {len(names)} clients, got none for "
                f"{len(missing)}, such as {missing[0]!r}."
            )
        columns = np.array([table[name] for name in names], float).reshape(-1, len(_COLUMNS))
        return Links(*columns.T)

    return Network(links_of)


def arrivals(
    links: Links, *, down: int, steps: Int[np.ndarray, " clients"], up: Int[np.ndarray, " clients"]
) -> Float[np.ndarray, " clients"]:
    """Seconds from when the server sends the model until it has each client's whole answer.

    That is two latencies, the transfer of both messages, and the local steps between them. No link
    is shared between clients. `down` is the bytes of the downlink, `up` those of each uplink.
    """
    transfer = 8.0 * down / links.downlink + 8.0 * up / links.uplink
    return 2 * links.latency + transfer + links.step * steps


def _number(value: Any, where: str, name: str) -> float:
    if value in (None, "") and name in ("latency", "step"):
        return 0.0
    try:
        return float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(message(where, name, "a number", value)) from None


def _checked(given: Mapping[str, float | int], where: str) -> tuple[float, ...]:
    """The values in the order of the columns; raises `ValueError` for one out of range."""
    for name in ("uplink", "downlink"):
        check_above_zero(given[name], who=where, name=name, unit="bits per second")
    for name in ("latency", "step"):
        check_seconds(given[name], who=where, name=name)
    return tuple(float(given[name]) for name in _COLUMNS)
