"""What goes wrong with clients, as a schedule that key, round and client alone decide."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ...algorithm import ClientState, Downlink, FederatedAlgorithm, Uplink
from ...client_training import Batches, ClientInfo, Frozen


class Fate(NamedTuple):
    """What becomes of a client in a round."""

    dropped: Bool[Array, "*clients"]
    """It takes the model and is gone before it has sent anything: no uplink is made or counted,
    and its lasting state is what it was, as it is of a client that was not drawn."""
    silent: Bool[Array, "*clients"]
    """It does its work and keeps what that leaves in its state, as if it had answered, and never
    does: no uplink is counted."""
    failed: Bool[Array, "*clients"]
    """It computes with NaNs for all that it received and kept, and sends what comes of that; its
    lasting state is what it was."""
    work: Float[Array, "*clients"]
    """Share of its steps that it finishes, rounded up to whole steps."""


class Faults(NamedTuple):
    """A schedule."""

    draw: Callable[[Key[Array, ""], Int[Array, ""], Int[Array, ""]], Fate]
    """`(key, round, client) -> fate`, traced. The key is the client's in that round and the one of
    no other purpose, so that a fate depends on nobody else, nor on what ran before."""


def faults(
    *,
    dropout: float | int = 0.0,
    silence: float | int = 0.0,
    failure: float | int = 0.0,
    partial: float | int = 0.0,
) -> Faults:
    """Independent faults: the probability that a client, in a round that it is drawn for, drops
    out, is silent, fails, or does part of its work; as `Fate` says, one of these at most.

    Who does part of it finishes 1 step to all of them, each number as likely, as in FedProx (Li et
    al. 2020, arXiv:1812.06127, section 5.2), and is folded in with its whole weight. Methods that
    average differences then favour who does more; `fed_nova` corrects that (Wang et al. 2020,
    arXiv:2007.07481).
    Raises `ValueError` unless each is from 0 to 1, and their sum is.
    """
    chances = {"dropout": dropout, "silence": silence, "failure": failure, "partial": partial}
    for name, chance in chances.items():
        if isinstance(chance, bool) or not 0 <= chance <= 1:
            raise ValueError(f"faults: {name} must be from 0 to 1, got {chance!r}.")
    if sum(chances.values()) > 1:
        raise ValueError(
            f"faults: {', '.join(chances)} must come to at most 1, as a client has one of them, "
            f"got {sum(chances.values())}."
        )

    def draw(key: Key[Array, ""], number: Int[Array, ""], client: Int[Array, ""]) -> Fate:
        which_key, work_key = jr.split(key)
        which, below = jr.uniform(which_key), 0.0
        fallen = []  # one after another on [0, 1)
        for chance in chances.values():
            fallen.append((which >= below) & (which < below + chance))
            below += chance
        dropped, silent, failed, chunk = fallen
        return Fate(dropped, silent, failed, jnp.where(chunk, 1 - jr.uniform(work_key), 1.0))

    return Faults(draw)


class FaultyBatches(NamedTuple):
    """A client's batches, and whether it fails."""

    batches: Batches
    failed: Any
    """A boolean for each."""

    @property
    def mask(self) -> PyTree:
        """That of the batches."""
        return self.batches.mask


def with_failures(algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    """The same algorithm, whose clients take `FaultyBatches` and fail where that says so.

    All floating-point numbers that reach such a client, and those that it has kept, are NaN, so
    that it fails as the algorithm's clients do of themselves.
    """

    def client_update(
        key: Key[Array, ""], frozen: Frozen, sent: Downlink, own: ClientState, struck: Any
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        def poisoned(leaf: Array) -> Array:
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.where(struck.failed, jnp.nan, leaf).astype(leaf.dtype) if floating else leaf

        sent, own = jax.tree.map(poisoned, (sent, own))
        return algorithm.client_update(key, frozen, sent, own, struck.batches)

    return algorithm._replace(client_update=client_update)
