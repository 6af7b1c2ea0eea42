"""Arrays from the host to where a client axis wants them, and back, in one process or many."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int, PyTree

from .contract import ClientAxis


def shards(client_axis: ClientAxis) -> int:
    """By what the clients of a program must divide."""
    placement = client_axis.placement
    return placement.mesh.shape[placement.axis] if placement else 1


def rows_here(client_axis: ClientAxis, rows: int) -> Int[np.ndarray, " rows"]:
    """Which of so many clients lie with this process."""
    if client_axis.placement is None or jax.process_count() == 1:
        return np.arange(rows)
    places = _over_clients(client_axis).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[place] for place in places if place]))


def put_clients(client_axis: ClientAxis, here: PyTree, rows: int) -> PyTree:
    """Leaves `[rows, ...]` on the devices, of those rows that lie with this process."""
    if client_axis.placement is None:
        return jax.device_put(here)
    sharding = _over_clients(client_axis)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(leaf), (rows, *leaf.shape[1:])
        ),
        here,
    )


def put_shared(client_axis: ClientAxis, tree: PyTree) -> PyTree:
    """What every client sees, on all devices; what lies on the mesh already stays where it is."""
    if client_axis.placement is None:
        return tree
    mesh = client_axis.placement.mesh
    there = set(mesh.devices.flat)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == there:
            return leaf
        return jax.device_put(leaf, NamedSharding(mesh, P()))

    return jax.tree.map(put, tree)


def get_here(tree: PyTree) -> PyTree:
    """Rows that lie with this process, on the host."""
    return jax.tree.map(_own_rows, tree)


def get_all(tree: PyTree) -> PyTree:
    """Rows of all processes, on the host of each."""
    leaves = jax.tree.leaves(tree)
    if all(leaf.is_fully_addressable for leaf in leaves):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def summed(numbers: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The sum over all processes."""
    if jax.process_count() == 1:
        return numbers
    every = multihost_utils.process_allgather(numbers.astype(np.int32))
    return np.asarray(every, np.int64).sum(axis=0)


def _over_clients(client_axis: ClientAxis) -> NamedSharding:
    assert client_axis.placement is not None  # noqa: S101 - for the type checker
    return NamedSharding(client_axis.placement.mesh, P(client_axis.placement.axis))


def _own_rows(leaf: jax.Array) -> np.ndarray:
    if leaf.is_fully_addressable:
        return np.asarray(leaf)
    cohort_chunks = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
    return np.concatenate([np.asarray(cohort_chunks[start]) for start in sorted(cohort_chunks)])
