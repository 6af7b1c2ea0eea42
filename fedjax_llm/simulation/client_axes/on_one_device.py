"""Client axes on one device: all clients at once, one after another, or in chunks."""

from functools import partial as bind
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from .contract import Client, ClientAxis, Outputs, RoundGather


def vmap() -> ClientAxis:
    """All clients at once. Memory grows with the cohort."""

    def run(
        client: Client,
        fold: RoundGather,
        shared: PyTree,
        partial: PyTree,
        inputs: PyTree,
        weights: Float[Array, " clients"],
    ) -> tuple[PyTree, Outputs]:
        outputs = jax.vmap(bind(client, shared))(inputs)
        return fold.add(shared, partial, outputs[0], weights), outputs

    return ClientAxis(run)


def scan() -> ClientAxis:
    """One client after another. Memory of one client, beside the messages of all."""

    def run(
        client: Client,
        fold: RoundGather,
        shared: PyTree,
        partial: PyTree,
        inputs: PyTree,
        weights: Float[Array, " clients"],
    ) -> tuple[PyTree, Outputs]:
        def step(partial: PyTree, one: Any) -> tuple[PyTree, Outputs]:
            own, weight = one
            outputs = client(shared, own)
            row = jax.tree.map(lambda leaf: leaf[None], outputs[0])
            return fold.add(shared, partial, row, weight[None]), outputs

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
