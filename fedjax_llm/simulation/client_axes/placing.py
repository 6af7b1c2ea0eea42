"""Moves arrays between the host and the devices of a client axis, in one process or in many."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int, PyTree

from .contract import ClientAxis


def shards(client_axis: ClientAxis) -> int:
    """Number of devices on the client axis; the clients per program must be a multiple of it."""
    placement = client_axis.placement
    return placement.mesh.shape[placement.axis] if placement else 1


def local_rows(client_axis: ClientAxis, rows: int) -> Int[np.ndarray, " local"]:
    """The indices, out of `rows` clients, of the clients on this process's devices."""
    if client_axis.placement is None or jax.process_count() == 1:
        return np.arange(rows)
    slices = _over_clients(client_axis).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in slices if index]))


def put_clients(client_axis: ClientAxis, local: PyTree, rows: int) -> PyTree:
    """Leaves `[rows, ...]` on the devices, from this process's rows `[local, ...]` on the host."""
    if client_axis.placement is None:
        return jax.device_put(local)
    sharding = _over_clients(client_axis)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(leaf), (rows, *leaf.shape[1:])
        ),
        local,
    )


def put_shared(client_axis: ClientAxis, tree: PyTree) -> PyTree:
    """Arrays that every client reads, on all devices; arrays already on the mesh do not move."""
    if client_axis.placement is None:
        return tree
    mesh = client_axis.placement.mesh
    devices = set(mesh.devices.flat)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        return jax.device_put(leaf, NamedSharding(mesh, P()))

    return jax.tree.map(put, tree)


def get_local(tree: PyTree) -> PyTree:
    """The rows on this process's devices, copied to the host."""
    return jax.tree.map(_local_rows_of, tree)


def get_all(tree: PyTree) -> PyTree:
    """The rows on the devices of all processes, copied to the host of each process."""
    leaves = jax.tree.leaves(tree)
    if all(leaf.is_fully_addressable for leaf in leaves):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def sum_over_processes(numbers: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The elementwise sum over all processes."""
    if jax.process_count() == 1:
        return numbers
    gathered = multihost_utils.process_allgather(numbers.astype(np.int32))
    return np.asarray(gathered, np.int64).sum(axis=0)


def _over_clients(client_axis: ClientAxis) -> NamedSharding:
    assert client_axis.placement is not None  # noqa: S101 - for the type checker
    return NamedSharding(client_axis.placement.mesh, P(client_axis.placement.axis))


def _local_rows_of(leaf: jax.Array) -> np.ndarray:
    if leaf.is_fully_addressable:
        return np.asarray(leaf)
    shards_by_start = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}
    return np.concatenate([np.asarray(shards_by_start[start]) for start in sorted(shards_by_start)])
