"""The contract of a client axis: how many clients one program takes, and on which devices.

All client axes compute the same round up to floating-point rounding. Rounding can be amplified: a
codec that rounds may move an entry that lies between two levels to the other level, and Adam may
take a full step along a gradient that is zero except for rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

Outputs = tuple[PyTree, ...]


Client = Callable[[PyTree, PyTree], Outputs]
"""`(shared, inputs) -> (uplink, *others)`: the computation of one client. Every traced value comes
in as `shared` or as `inputs`; a closure would not reach every device."""


class RoundGather(NamedTuple):
    """An algorithm's `Gather` for one round; the server state is read from `shared`.

    Attributes:
        empty: `(shared) -> partial`.
        add: `(shared, partial, uplinks, weights) -> partial`. Leaves of `uplinks` are
            `[clients, ...]`, `weights` is `[clients]`.
        merge: `(partial, partial) -> partial`.

    """

    empty: Callable[[PyTree], PyTree]
    add: Callable[[PyTree, PyTree, PyTree, Float[Array, " clients"]], PyTree]
    merge: Callable[[PyTree, PyTree], PyTree]


class Placement(NamedTuple):
    """The mesh axis over which clients are distributed.

    Attributes:
        mesh: The device mesh.
        axis: The name of the mesh axis.

    """

    mesh: Mesh
    axis: str


class ClientAxis(NamedTuple):
    """How the clients of a cohort run.

    Attributes:
        run: `(client, gather, shared, partial, inputs, weights) -> (partial, outputs)`, traced.
            Runs `client(shared, row)` for every row of `inputs`, adds the uplinks to `partial` with
            `gather`, and returns the stacked outputs of the clients. Leaves of `inputs` and of
            `outputs` are `[clients, ...]`, `weights` is `[clients]`.
        at_most: Most clients that one program takes. The last chunk of a cohort is padded with
            clients of weight zero. None, the default, puts the whole cohort into one program.
        placement: The mesh axis that clients are distributed over; None, the default, for the
            default device alone.

    """

    run: Callable[
        [Client, RoundGather, PyTree, PyTree, PyTree, Float[Array, " clients"]],
        tuple[PyTree, Outputs],
    ]
    at_most: int | None = None
    placement: Placement | None = None
