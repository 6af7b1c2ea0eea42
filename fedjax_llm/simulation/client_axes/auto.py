"""Finds the fastest client axis that fits, by timing each one on the rounds to be run."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
from fedjax_compression.checks import check_function, check_kind
from fedjax_compression.errors import message
from jax.errors import JaxRuntimeError

from ...checks import check_count
from ..loop.round import Round
from .contract import ClientAxis
from .on_one_device import chunked, scan, vmap
from .sharded import sharded


class Timed(NamedTuple):
    """A client axis and how long its rounds take.

    Attributes:
        name: The name it was given.
        axis: The client axis.
        seconds: Wall-clock seconds of a round, without the first one and its compilation; None if
            the program did not fit on the device.

    """

    name: str
    axis: ClientAxis
    seconds: float | None


class Auto(NamedTuple):
    """A request for the fastest client axis, which `fastest` finds."""


def auto() -> Auto:
    """Ask for the fastest client axis that fits on this machine.

    The choices are scan(), chunked(8), chunked(32), vmap(), and scan() on each of several devices
    (`candidates` lists them). A run times three rounds of each on its own data, reports the choice
    and keeps it with the run. The choice depends on the machine, so the last bits of the results
    may depend on it too. `simulate` itself takes no `Auto`: call `fastest` first.

    Returns:
        The request, for a run's configuration (`--client-axis "auto()"`).

    Example:
        >>> from fedjax_llm.simulation import auto
        >>> auto()
        Auto()

    """
    return Auto()


def candidates(clients: int) -> dict[str, ClientAxis]:
    """List the client axes that `auto()` chooses from, the one with the least memory first.

    Args:
        clients: Clients in a cohort. Chunks at least as large as the cohort are left out.

    Returns:
        The client axes, by name.

    Raises:
        ValueError: For a number of clients that is no integer of at least 1.

    Example:
        >>> from fedjax_llm.simulation import candidates
        >>> [name for name in candidates(20) if name != "sharded(inner=scan())"]
        ['scan()', 'chunked(8)', 'vmap()']

    """
    check_count(clients, who="candidates", name="clients", at_least=1)
    sizes = [size for size in (8, 32) if size < clients]
    chunks = {f"chunked({size})": chunked(size) for size in sizes}
    several = min(jax.device_count(), clients) > 1
    devices = {"sharded(inner=scan())": sharded(inner=scan())} if several else {}
    return {"scan()": scan(), **devices, **chunks, "vmap()": vmap()}


def fastest(
    rounds: Callable[[ClientAxis], Iterator[Round]],
    axes: Mapping[str, ClientAxis],
    *,
    timed: int = 2,
) -> tuple[Timed, list[Timed]]:
    """Find the fastest of some client axes by running a few rounds on each.

    Each axis gets one run of 1 + `timed` rounds; the first, which compiles, is not timed, and the
    shortest of the others counts. An axis whose program does not fit on the device is skipped and
    the later ones are still tried. Running out of host memory cannot be caught, so list the axes
    with the least memory first.

    Args:
        rounds: `(client_axis) -> rounds`: starts a run, such as
            `lambda axis: simulate(..., client_axis=axis)`.
        axes: The client axes, by name; `candidates(clients)` makes such a mapping.
        timed: Rounds to time on each axis, at least 1; 2 by default.

    Returns:
        The fastest axis, and the times of all axes in the order given.

    Raises:
        TypeError: For `rounds` that is no function, or `axes` that is no mapping.
        ValueError: Without axes, or for a `timed` below 1.
        MemoryError: If no axis fits.

    Example:
        >>> from fedjax_llm.simulation import fastest, scan, vmap
        >>> def rounds(axis):  # stands for: simulate(..., rounds=3, client_axis=axis)
        ...     return iter(["round 1", "round 2", "round 3"])
        >>> best, times = fastest(rounds, {"scan()": scan(), "vmap()": vmap()})
        >>> [each.name for each in times], best in times
        (['scan()', 'vmap()'], True)

    """
    check_function(rounds, who="fastest", name="rounds", signature="(client_axis) -> rounds")
    check_kind(axes, Mapping, who="fastest", name="axes", expected="client axes by name")
    check_count(timed, who="fastest", name="timed", at_least=1)
    if not axes:
        raise ValueError(message("fastest", "axes", "at least one", axes))
    times = [Timed(name, axis, _seconds(rounds(axis), timed)) for name, axis in axes.items()]
    fitting = [each for each in times if each.seconds is not None]
    if not fitting:
        names = ", ".join(axes)
        raise MemoryError(f"fastest: axes: expected one of {names} to fit, got none that does.")
    return min(fitting, key=lambda each: each.seconds or 0.0), times


def _seconds(run: Iterator[Round], timed: int) -> float | None:
    """Seconds of the fastest timed round; None if the device runs out of memory."""
    least = float("inf")
    try:
        next(run)
        for _ in range(timed):
            started = time.perf_counter()
            if next(run, None) is not None:
                least = min(least, time.perf_counter() - started)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return least
