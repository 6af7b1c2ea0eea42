"""What a configuration says of faults and of time."""

from collections.abc import Callable, Mapping

from fedjax_compression import Compressor, has_receiver_memory
from fedjax_compression.text import parse

from ..simulation import Conditions, deadline, diurnal, faults, link, links, trace
from .config import RunConfig
from .methods import ALL_AT_ONCE, BUFFERED, EVERY_ROUND
from .names import built

CONDITIONS: Mapping[str, Mapping[str, Callable]] = {
    "faults": {"faults": faults},
    "link": {"link": link, "links": links},
    "deadline": {"deadline": deadline},
    "availability": {"diurnal": diurnal, "trace": trace},
}
"""By field, what it may name."""


def conditions(config: RunConfig, downlink: Compressor) -> Conditions:
    """The conditions that a configuration names.

    Raises `ValueError` naming the field where it cannot be read, where time is asked for without a
    link, where a deadline wants more clients than are drawn, where the method, or the downlink's
    codec, needs every client in every round, and where a run cannot have a buffer.
    """
    given = {
        name: built(name, text, factories)
        for name, factories in CONDITIONS.items()
        if (text := getattr(config, name)) is not None
    }
    method = parse(config.algorithm).name
    for name in given:
        if method in ALL_AT_ONCE or (method in EVERY_ROUND and name in ("faults", "deadline")):
            raise ValueError(
                f"{name}: {method} needs the whole of every client in every round, expected none, "
                f"got {getattr(config, name)}."
            )
        if name in ("deadline", "availability") and "link" not in given:
            raise ValueError(
                f"{name}: expected a link, such as link(uplink=10e6, downlink=50e6), as it is in "
                f"simulated seconds; got {getattr(config, name)} alone."
            )
    misses = config.faults if config.buffer is None else f"a buffer of {config.buffer}"
    if misses and has_receiver_memory(downlink):
        raise ValueError(
            f"downlink: {config.downlink} needs every client in every round, as a client that "
            f"misses a message cannot read the next; expected none of faults and buffer, got "
            f"{misses}."
        )
    if config.buffer is not None:
        _check_buffer(config, method)
    if "deadline" in given and (given["deadline"].first or 0) > config.clients:
        raise ValueError(
            f"deadline: expected first to be at most {config.clients}, the clients drawn for a "
            f"round, got {given['deadline'].first}."
        )
    return Conditions(
        given.get("faults"), given.get("link"), given.get("deadline"), given.get("availability")
    )


def _check_buffer(config: RunConfig, method: str) -> None:
    if method not in BUFFERED:
        raise ValueError(
            f"buffer: {method}'s server cannot add answers to a model that it has left behind, "
            f"expected one of {', '.join(BUFFERED)}."
        )
    if config.buffer is not None and config.buffer < 1:
        raise ValueError(f"buffer: expected at least 1, got {config.buffer}.")
    if config.link is None:
        raise ValueError(
            "buffer: expected a link, such as link(uplink=10e6, downlink=50e6), as who answers "
            "first is a matter of time; got none."
        )
    for name, expected in (
        ("deadline", None),
        ("availability", None),
        ("client_axis", "scan()"),
    ):
        if (got := getattr(config, name)) != expected:
            raise ValueError(
                f"{name}: with a buffer clients run one by one and no round waits for them, "
                f"expected {expected or 'none'}, got {got}."
            )
