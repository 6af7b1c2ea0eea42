"""How a server combines decoded updates."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxtyping import Array, Float, PyTree

Partial: TypeAlias = PyTree


Updates: TypeAlias = PyTree
"""Decoded updates of some clients: leaves `[clients, ...]`."""


class Aggregator(NamedTuple):
    """A fold over chunks of clients. A row of weight zero counts as nothing."""

    empty: Callable[[PyTree, int], Partial]
    """`(like, clients) -> partial`: before any client; `clients` is the cohort's static size."""
    add: Callable[[Partial, Updates, Float[Array, " clients"]], Partial]
    """`(partial, updates, weights) -> partial`: fold in a chunk."""
    merge: Callable[[Partial, Partial], Partial]
    """`(partial, partial) -> partial`: of two devices or hosts."""
    finish: Callable[[Partial], PyTree]
    """`(partial) -> update` in float32; zero where no weight was added."""
