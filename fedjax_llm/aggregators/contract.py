"""The contract of an aggregator."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from fedjax_compression import Compressor, Summable
from jaxtyping import Array, Float, Int, Key, PyTree

from ..privacy.mechanism import Mechanism

Partial: TypeAlias = PyTree
"""The aggregate of the clients folded in so far."""


Updates: TypeAlias = PyTree
"""Decoded updates of some clients: leaves `[clients, ...]`."""


class Noised(NamedTuple):
    """What a rule that adds noise has in place of `begin` and `finish`.

    Attributes:
        mechanism: What a round releases, for accounting.
        init: `() -> memory`: what the rule keeps before the first round, such as a clip bound;
            empty for nothing. It is in checkpoints, so that it may hold only what was released.
        begin: `(memory, like, clients) -> partial`: the partial before any client of a round.
        finish: `(key, memory, partial) -> (update, memory)`: the combined update with its noise, in
            float32, and what the rule keeps for the next round. `key` is used for nothing else. A
            round in which no client was accepted is released like any other.

    """

    mechanism: Mechanism
    init: Callable[[], PyTree]
    begin: Callable[[PyTree, PyTree, int], Partial]
    finish: Callable[[Key[Array, ""], PyTree, Partial], tuple[PyTree, PyTree]]


class Summing(NamedTuple):
    """A rule that adds the integers of messages, for one codec.

    Attributes:
        read: `(payload) -> updates`: what the rule folds in of one message, in place of the
            decoded update; it holds a NaN if the client's update was not finite.
        rule: The rule over that; its `finish` returns the combined update, in float32.
        clipped: `(partial) -> count`: entries that clients clipped.
        adds: How the codec's messages add up.
        add_sum: `(partial, total, counted) -> partial`: fold in the sum of the integers of
            `counted` messages, int32 `[integers]`, as `rule.add` does with the messages themselves.

    """

    read: Callable[[PyTree], PyTree]
    rule: "Aggregator"
    clipped: Callable[[Partial], Float[Array, ""]]
    adds: Summable
    add_sum: Callable[[Partial, Int[Array, " integers"], Int[Array, ""]], Partial]


class AtClients(NamedTuple):
    """Noise that clients add to what they send, for a rule.

    Attributes:
        build: `(codec, like) -> (codec, mechanism)`: what clients encode their updates with, given
            the run's uplink (None for none) and the structure of an update, and what a client's
            round releases. The codec draws its noise from the key of `encode`, and sends an update
            that is not finite as noise, as that a client failed is told without noise.

    """

    build: Callable[[Compressor | None, PyTree], tuple[Compressor, Mechanism]]


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
        noised: For a rule that adds noise, in place of `begin`; its `finish` raises, so that no
            method leaves the noise out unseen. None (default): the rule adds none.
        summing: For a rule that adds the integers of messages: `(codec, like) -> Summing`, for a
            codec and the structure of its updates; it raises `ValueError` for a codec whose
            messages do not add up. Its `add` and `finish` raise. None (default): the rule combines
            decoded updates.
        at_clients: For a rule whose clients add noise: `AtClients`. A method that does not know it
            refuses the rule. None (default): clients add none.

    """

    empty: Callable[[PyTree, int], Partial]
    add: Callable[[Partial, Updates, Float[Array, " clients"]], Partial]
    merge: Callable[[Partial, Partial], Partial]
    finish: Callable[[Partial], PyTree]
    begin: Callable[[Key[Array, ""], PyTree, int], Partial] | None = None
    noised: Noised | None = None
    summing: Callable[[Compressor, PyTree], Summing] | None = None
    at_clients: AtClients | None = None
