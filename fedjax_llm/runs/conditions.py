"""Conditions of a run: which faults, networks, deadlines and buffers a method can run under."""

from fedjax_compression import Compressor, has_receiver_memory

from ..algorithms.registry import METHODS
from ..simulation import Conditions
from ..simulation.conditions.registry import CONDITIONS
from .config import ParsedConfig, RunConfig
from .texts import built


def conditions(parsed: ParsedConfig, downlink: Compressor) -> Conditions:
    """The conditions that a configuration names.

    Args:
        parsed: The configuration.
        downlink: Its downlink codec.

    Raises:
        ValueError: Naming the field: for a text that names no condition, for a deadline or
            availability without a link, for a deadline that waits for more clients than are drawn,
            and where the method or the downlink's codec cannot run under the condition.

    """
    config, texts, method = parsed.config, parsed.texts, parsed.method
    given = {
        name: built(name, texts[name], factories)
        for name, factories in CONDITIONS.items()
        if name in texts
    }
    name_of_method = texts["algorithm"].call.name
    for name in given:
        if method.split or (method.every_round and name in ("faults", "deadline")):
            raise ValueError(
                f"{name}: {name_of_method} needs the whole of every client in every round, "
                f"expected none, got {getattr(config, name)}."
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
        _check_buffer(config, name_of_method, bufferable=method.bufferable)
    if "deadline" in given and (given["deadline"].first or 0) > config.clients:
        raise ValueError(
            f"deadline: expected first to be at most {config.clients}, the clients drawn for a "
            f"round, got {given['deadline'].first}."
        )
    return Conditions(
        given.get("faults"), given.get("link"), given.get("deadline"), given.get("availability")
    )


def _check_buffer(config: RunConfig, method: str, *, bufferable: bool) -> None:
    if not bufferable:
        raise ValueError(
            f"buffer: {method}'s server cannot add answers to a model that it has left behind, "
            f"expected one of {', '.join(n for n, each in METHODS.items() if each.bufferable)}."
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
