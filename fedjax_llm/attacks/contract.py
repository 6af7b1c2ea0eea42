"""The contract of an attack: what malicious clients do in place of what they should."""

from collections.abc import Callable
from typing import NamedTuple

from fedjax_compression.checks import check_number
from jaxtyping import Array, Bool, Int, Key, PyTree

from ..client_training import Batches


class Attack(NamedTuple):
    """Which clients are malicious, and what they do; a method knows nothing of it.

    A run draws the malicious clients from its seed, once: the same in every round, resumed or not.
    They answer as often as others and keep their codec's state. What they send goes through the
    uplink's codec, so that it is a message that the wire can carry, and is counted like any other.

    An attack has one of the three functions; all trace under `jit`, with updates in float32.

    Attributes:
        fraction: Share of all clients that are malicious, above 0 and below 1, rounded to a whole
            number of clients.
        batches: `(key, batches) -> batches`: a malicious client's training data, of the same
            structure: leaves `[steps, batch, ...]`.
        update: `(key, update) -> update`: what a malicious client encodes in place of its honest
            update. It knows nothing of other clients.
        craft: `(key, updates, honest, bad) -> update`: what every malicious client of a round
            encodes. It is omniscient: `updates` are those that the server decodes from all clients
            of the round, had they been honest, leaves `[clients, ...]`; `honest` marks the honest
            ones that answer with a finite update, `[clients]`, and `bad` is the number of malicious
            ones. The simulation hands these over at no cost in bytes and holds a round's updates
            for it.

    """

    fraction: float | int
    batches: Callable[[Key[Array, ""], Batches], Batches] | None = None
    update: Callable[[Key[Array, ""], PyTree], PyTree] | None = None
    craft: (
        Callable[[Key[Array, ""], PyTree, Bool[Array, " clients"], Int[Array, ""]], PyTree] | None
    ) = None


def check_fraction(fraction: float | int, *, who: str) -> None:
    """Raise `ValueError` unless a share of clients is above 0 and below 1."""
    check_number(fraction, who=who, name="fraction", above=0, below=1)
