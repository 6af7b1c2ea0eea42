"""The contract of an aggregator."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxtyping import Array, Float, Key, PyTree

Partial: TypeAlias = PyTree
"""The aggregate of the clients folded in so far."""


Updates: TypeAlias = PyTree
"""Decoded updates of some clients: leaves `[clients, ...]`."""


class Aggregator(NamedTuple):
    """A rule that combines decoded updates, as a fold over chunks of clients.

    A row of weight zero counts as nothing. `add` gets such rows for clients that dropped out, were
    late or failed, at any place in a chunk, and as the padding of a cohort's last chunk, so that a
    round may add more rows than `clients`. A rule that stores rows builds on `stacked`, which skips
    them. The caller zeroes rows that are not finite, with their weights (`leave_out_failed`),
    before it adds them. All functions trace under `jit`.
    `fedjax_llm.testing.check_aggregator(rule)` checks all this.

    Attributes:
        empty: `(like, clients) -> partial`: the partial before any client. `like` is the structure
            of one update, arrays or ShapeDtypeStructs; `clients` is the static size of the cohort.
        add: `(partial, updates, weights) -> partial`: fold in a chunk. Every leaf of `updates` has
            a leading client axis, `[chunk, ...]`; `weights` is `[chunk]`, at least 0. Rows of
            weight zero, padding among them, must not overwrite or displace others.
        merge: `(partial, partial) -> partial`: combine the partials of two devices or hosts.
        finish: `(partial) -> update`: the combined update, in float32; zero where no weight was
            added.
        begin: `(key, last, clients) -> partial`: `empty` of a rule that draws random numbers or
            starts from the last aggregate. `key` is the round's own; `last` is the result of the
            last round's `finish`, in float32, and zeros before the first round. A method that finds
            it calls it in place of `empty`. None (default): a round depends on neither.

    """

    empty: Callable[[PyTree, int], Partial]
    add: Callable[[Partial, Updates, Float[Array, " clients"]], Partial]
    merge: Callable[[Partial, Partial], Partial]
    finish: Callable[[Partial], PyTree]
    begin: Callable[[Key[Array, ""], PyTree, int], Partial] | None = None
