"""Three ways to run a cohort through one program.

All compute the same round to rounding. A codec that rounds may then take an entry that lies
between two levels the other way, and Adam a full step along a gradient that is zero but for
rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Outputs = tuple[PyTree, ...]
Client = Callable[[PyTree], Outputs]
"""`(inputs of one client) -> (uplink, whatever else)`."""
Add = Callable[[PyTree, PyTree, Float[Array, " chunk"]], PyTree]
"""`(partial, uplinks, weights) -> partial`."""
ClientAxis = Callable[
    [Client, Add, PyTree, PyTree, Float[Array, " clients"]], tuple[PyTree, Outputs]
]
"""`(client, add, partial, inputs, weights) -> (partial, outputs)`: run every client, fold its
uplink into the partial, and return the outputs; inputs and outputs lead with the client axis."""


def vmap() -> ClientAxis:
    """All clients at once. Memory grows with the cohort."""

    def run(
        client: Client, add: Add, partial: PyTree, inputs: PyTree, weights: Float[Array, " clients"]
    ) -> tuple[PyTree, Outputs]:
        outputs = jax.vmap(client)(inputs)
        return add(partial, outputs[0], weights), outputs

    return run


def scan() -> ClientAxis:
    """One client after another. Memory of one client, beside the messages."""

    def run(
        client: Client, add: Add, partial: PyTree, inputs: PyTree, weights: Float[Array, " clients"]
    ) -> tuple[PyTree, Outputs]:
        def step(partial: PyTree, one: Any) -> tuple[PyTree, Outputs]:
            own, weight = one
            outputs = client(own)
            row = jax.tree.map(lambda leaf: leaf[None], outputs[0])
            return add(partial, row, weight[None]), outputs

        return jax.lax.scan(step, partial, (inputs, weights))

    return run


def chunked(size: int) -> ClientAxis:
    """So many clients at a time. A last chunk that is not full is filled with rows of weight zero.

    Raises `ValueError` unless size is at least 1.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"chunked: size must be an integer of at least 1, got {size!r}.")
    at_once = vmap()

    def run(
        client: Client, add: Add, partial: PyTree, inputs: PyTree, weights: Float[Array, " clients"]
    ) -> tuple[PyTree, Outputs]:
        clients = len(weights)
        chunk = min(size, clients)
        fill = -clients % chunk

        def split(leaf: Array, *, mode: str) -> Array:
            widths = [(0, fill)] + [(0, 0)] * (leaf.ndim - 1)
            return jnp.pad(leaf, widths, mode=mode).reshape(-1, chunk, *leaf.shape[1:])

        def step(partial: PyTree, part: Any) -> tuple[PyTree, Outputs]:
            return at_once(client, add, partial, *part)

        parts = jax.tree.map(lambda leaf: split(leaf, mode="edge"), inputs)
        partial, outputs = jax.lax.scan(step, partial, (parts, split(weights, mode="constant")))
        joined = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:clients], outputs)
        return partial, joined

    return run


CLIENT_AXES: dict[str, Callable[..., ClientAxis]] = {
    axis.__name__: axis for axis in (vmap, scan, chunked)
}
"""Every client axis, by its name."""
