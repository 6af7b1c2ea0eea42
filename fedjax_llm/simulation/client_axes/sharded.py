"""Clients over devices, of one process or of many, their folds merged across the devices."""

from collections.abc import Callable
from functools import partial as bind

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from .contract import Client, ClientAxis, Outputs, Placement, RoundGather
from .on_one_device import vmap


def sharded(
    mesh: Mesh | None = None, *, axis: str = "clients", inner: ClientAxis | None = None
) -> ClientAxis:
    """Each device of a mesh's axis runs its share of the cohort as `inner` (`vmap()`) does.

    Unless given, the mesh is that of all devices. A cohort that the devices do not divide is filled
    up with rows of weight zero. What the devices folded is merged in their order, in a tree of
    log2(devices) steps that holds two partials on each. Parameters lie on every device; `frozen`
    may be sharded over other axes of the mesh, of the type Auto, and stays so. Where devices belong
    to several processes, each makes the batches and the messages of its own clients.
    Raises `ValueError` for what is no mesh, an axis that it has not, and an inner axis that is not
    of one device.
    """
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))
    if not isinstance(mesh, Mesh):
        raise ValueError(f"sharded: mesh must be a jax.sharding.Mesh, got {mesh!r}.")
    if axis not in mesh.axis_names:
        raise ValueError(f"sharded: axis must be one of {mesh.axis_names}, got {axis!r}.")
    inner = vmap() if inner is None else inner
    if not isinstance(inner, ClientAxis) or inner.placement:
        raise ValueError("sharded: inner must be vmap(), scan() or chunked(size).")
    devices = mesh.shape[axis]

    def run(
        client: Client,
        fold: RoundGather,
        shared: PyTree,
        partial: PyTree,
        inputs: PyTree,
        weights: Float[Array, " clients"],
    ) -> tuple[PyTree, Outputs]:
        # Were variance over the mesh checked, a gradient by what is replicated would be the sum
        # over the devices.
        @bind(
            jax.shard_map,
            mesh=mesh,
            in_specs=(P(), P(axis), P(axis)),
            out_specs=(P(), P(axis)),
            axis_names={axis},
            check_vma=False,
        )
        def share(
            shared: PyTree, inputs: PyTree, weights: Float[Array, " share"]
        ) -> tuple[PyTree, Outputs]:
            folded, outputs = inner.run(client, fold, shared, fold.empty(shared), inputs, weights)
            return _merged(folded, fold.merge, axis, devices), outputs

        folded, outputs = share(shared, inputs, weights)
        return fold.merge(partial, folded), outputs

    at_most = inner.at_most and inner.at_most * devices
    return ClientAxis(run, at_most, Placement(mesh, axis))


def _merged(
    partial: PyTree, merge: Callable[[PyTree, PyTree], PyTree], axis: str, devices: int
) -> PyTree:
    """Every device's partial, merged in their order, on all of them."""
    index = jax.lax.axis_index(axis)
    steps = [2**power for power in range((devices - 1).bit_length())]
    for step in steps:
        places = range(0, devices - step, 2 * step)
        later = jax.lax.ppermute(partial, axis, [(i + step, i) for i in places])
        takes = (index % (2 * step) == 0) & (index + step < devices)
        partial = _where(takes, merge(partial, later), partial)
    for step in reversed(steps):
        places = range(0, devices - step, 2 * step)
        first = jax.lax.ppermute(partial, axis, [(i, i + step) for i in places])
        partial = _where(index % (2 * step) == step, first, partial)
    return partial


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)
