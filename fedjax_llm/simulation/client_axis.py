"""Ways to run a cohort: how much of it in one program, and on which devices.

All compute the same round to rounding. A codec that rounds may then take an entry that lies
between two levels the other way, and Adam a full step along a gradient that is zero but for
rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PyTree

Outputs = tuple[PyTree, ...]
Client = Callable[[PyTree], Outputs]
"""`(inputs of one client) -> (uplink, whatever else)`."""


class Fold(NamedTuple):
    """`algorithm.Gather` of one round's server state."""

    empty: PyTree
    add: Callable[[PyTree, PyTree, Float[Array, " chunk"]], PyTree]
    """`(partial, uplinks, weights) -> partial`."""
    merge: Callable[[PyTree, PyTree], PyTree]
    """`(partial, partial) -> partial`."""


class ClientAxis(NamedTuple):
    """How a cohort is run."""

    run: Callable[[Client, Fold, PyTree, PyTree, Float[Array, " clients"]], tuple[PyTree, Outputs]]
    """`(client, fold, partial, inputs, weights) -> (partial, outputs)`, traced: run every client,
    fold its uplink into the partial, and return the outputs; inputs and outputs lead with the
    client axis."""
    at_most: int | None = None
    """Clients that a program takes at a time, the last of a cohort filled up with rows of weight
    zero; None for a round in one program, whatever the cohort."""


def vmap() -> ClientAxis:
    """All clients at once. Memory grows with the cohort."""

    def run(
        client: Client,
        fold: Fold,
        partial: PyTree,
        inputs: PyTree,
        weights: Float[Array, " clients"],
    ) -> tuple[PyTree, Outputs]:
        outputs = jax.vmap(client)(inputs)
        return fold.add(partial, outputs[0], weights), outputs

    return ClientAxis(run)


def scan() -> ClientAxis:
    """One client after another. Memory of one client, beside the messages of all."""

    def run(
        client: Client,
        fold: Fold,
        partial: PyTree,
        inputs: PyTree,
        weights: Float[Array, " clients"],
    ) -> tuple[PyTree, Outputs]:
        def step(partial: PyTree, one: Any) -> tuple[PyTree, Outputs]:
            own, weight = one
            outputs = client(own)
            row = jax.tree.map(lambda leaf: leaf[None], outputs[0])
            return fold.add(partial, row, weight[None]), outputs

        return jax.lax.scan(step, partial, (inputs, weights))

    return ClientAxis(run)


def chunked(size: int) -> ClientAxis:
    """So many clients at a time, with their batches and messages: memory of two chunks, of which
    the host reads one while the device computes the other.

    Raises `ValueError` unless size is at least 1.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"chunked: size must be an integer of at least 1, got {size!r}.")
    return vmap()._replace(at_most=size)


CLIENT_AXES: dict[str, Callable[..., ClientAxis]] = {
    axis.__name__: axis for axis in (vmap, scan, chunked)
}
"""Every client axis, by its name."""
