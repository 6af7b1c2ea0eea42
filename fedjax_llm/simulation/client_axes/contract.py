"""Ways to run a cohort: how much of it in one program, and on which devices.

All compute the same round to rounding. A codec that rounds may then take an entry that lies
between two levels the other way, and Adam a full step along a gradient that is zero but for
rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

Outputs = tuple[PyTree, ...]


Client = Callable[[PyTree, PyTree], Outputs]
"""`(shared, inputs of one client) -> (uplink, whatever else)`. What is traced comes as `shared` or
as inputs: a closure would not reach every device."""


class RoundGather(NamedTuple):
    """`algorithm.Gather` of a round, whose server state is in `shared`."""

    empty: Callable[[PyTree], PyTree]
    """`(shared) -> partial`."""
    add: Callable[[PyTree, PyTree, PyTree, Float[Array, " chunk"]], PyTree]
    """`(shared, partial, uplinks, weights) -> partial`."""
    merge: Callable[[PyTree, PyTree], PyTree]
    """`(partial, partial) -> partial`."""


class Placement(NamedTuple):
    """Over which axis of which mesh clients lie."""

    mesh: Mesh
    axis: str


class ClientAxis(NamedTuple):
    """How a cohort is run."""

    run: Callable[
        [Client, RoundGather, PyTree, PyTree, PyTree, Float[Array, " clients"]],
        tuple[PyTree, Outputs],
    ]
    """`(client, fold, shared, partial, inputs, weights) -> (partial, outputs)`, traced: run every
    client, fold its uplink into the partial, and return the outputs; inputs and outputs lead with
    the client axis."""
    at_most: int | None = None
    """Clients that a program takes at a time, the last of a cohort filled up with rows of weight
    zero; None for a round in one program, whatever the cohort."""
    placement: Placement | None = None
    """None for one device, the default one."""
