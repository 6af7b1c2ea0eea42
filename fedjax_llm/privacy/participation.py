"""Who takes part in which round, as far as accounting depends on it."""

from typing import NamedTuple, TypeAlias

RELATIONS = ("add_or_remove", "zero_out", "replace_one")
"""What two neighbouring federations differ in: a client is there or not, its update is its own or
zero, its data are its own or any other's."""


class Separated(NamedTuple):
    """A client's rounds have numbers that differ by at least `rounds`; the draw may be known.

    Separation 1 says nothing: a client may be in every round.

    Attributes:
        rounds: The smallest difference, at least 1.

    """

    rounds: int = 1


class Poisson(NamedTuple):
    """Each client is in each round with one probability, independently, by a secret draw.

    Attributes:
        rate: The probability, above 0 and at most 1.
        population: All clients, a constant that is not secret.
        at_most: Most clients of a round; a larger draw is cut to a random part of this size.

    """

    rate: float | int
    population: int
    at_most: int


class WithoutReplacement(NamedTuple):
    """Each round takes a subset of all clients of one size, uniformly, by a secret draw.

    Attributes:
        clients: Clients of a round.
        population: All clients.

    """

    clients: int
    population: int


Participation: TypeAlias = Separated | Poisson | WithoutReplacement
