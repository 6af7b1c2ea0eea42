"""The fastest client axis that fits, found by running each on the rounds that are to be run."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
from jax.errors import JaxRuntimeError

from ..loop.round import Round
from .contract import ClientAxis
from .on_one_device import chunked, scan, vmap
from .sharded import sharded


class Timed(NamedTuple):
    """A client axis and what its rounds took."""

    name: str
    axis: ClientAxis
    seconds: float | None
    """Of one round, the first and its compilation left out; None where it did not fit."""


class Auto(NamedTuple):
    """A client axis that is still to be found by `fastest`."""


def auto() -> Auto:
    """The fastest of scan(), chunked(8), chunked(32) and vmap() that fits, and of scan() on each of
    several devices, by three rounds of each on the data that is to be learnt; which, is said and
    kept with the run. What is found depends on the machine, and so may the last bits.
    """
    return Auto()


def candidates(clients: int) -> dict[str, ClientAxis]:
    """What `auto()` stands for; one client at a time first, which takes the least memory."""
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
    """The fastest of some axes, and what was found of each, in the order given.

    `rounds` begins a run on an axis, such as `lambda axis: simulate(..., client_axis=axis)`; it is
    begun once for each axis, taken 1 + `timed` rounds far, and closed. The least of the timed
    counts. An axis whose program does not fit on the device is passed over, and those after it are
    still tried; where the host's own memory runs out no error can be caught, so that axes are
    best given from the smallest on.
    Raises `ValueError` where `timed` is below 1, and `MemoryError` where none fits.
    """
    if timed < 1:
        raise ValueError(f"fastest: timed must be at least 1, got {timed!r}.")
    found = [Timed(name, axis, _seconds(rounds(axis), timed)) for name, axis in axes.items()]
    fit = [each for each in found if each.seconds is not None]
    if not fit:
        raise MemoryError(f"fastest: expected one of {', '.join(axes)} to fit, got none that does.")
    return min(fit, key=lambda each: each.seconds or 0.0), found


def _seconds(run: Iterator[Round], timed: int) -> float | None:
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
