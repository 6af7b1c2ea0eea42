"""The client axis that distributes clients over devices, of one process or of many."""

from collections.abc import Callable
from functools import partial as bind

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_choice, check_kind
from fedjax_compression.errors import message
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, PyTree

from .contract import Client, ClientAxis, Outputs, Placement, RoundGather
from .on_one_device import vmap

_INNER = "vmap(), scan() or chunked(size)"


def sharded(
    mesh: Mesh | None = None, *, axis: str = "clients", inner: ClientAxis | None = None
) -> ClientAxis:
    """Run each device's share of a cohort with `inner`, and merge the partials over the devices.

    A cohort that does not divide evenly over the devices is padded with clients of weight zero. The
    partials are merged in the order of the devices, in a tree of log2(devices) steps; each device
    holds two partials during a step. Trainable parameters are replicated on every device. `frozen`
    may be sharded over other axes of the mesh (of axis type Auto) and keeps that sharding. If the
    devices belong to several processes, each process makes the batches and the messages of its own
    clients.

    Args:
        mesh: The device mesh; by default a mesh of all devices with the single axis `axis`.
        axis: The mesh axis that clients are distributed over; `"clients"` by default.
        inner: How one device runs its clients: `vmap()`, the default, `scan()` or `chunked(size)`.

    Returns:
        The client axis. It is equal to no other: reuse one object to reuse its compiled programs.

    Raises:
        TypeError: For a mesh or an inner client axis of another kind.
        ValueError: For an axis that the mesh does not have, and for an inner client axis that is
            itself distributed over devices.

    Example:
        >>> import jax
        >>> from fedjax_llm.simulation import chunked, sharded
        >>> axis = sharded(inner=chunked(4))  # four clients at a time on each device
        >>> axis.at_most == 4 * jax.device_count()
        True

    """
    who = "sharded"
    if mesh is not None:
        remedy = "jax.make_mesh makes one"
        check_kind(mesh, Mesh, who=who, name="mesh", expected="a jax.sharding.Mesh", remedy=remedy)
    if inner is not None:
        remedy = "call the factory first" if callable(inner) else ""
        check_kind(inner, ClientAxis, who=who, name="inner", expected=_INNER, remedy=remedy)
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), (axis,), axis_types=(AxisType.Auto,))
    check_choice(axis, tuple(mesh.axis_names), who=who, name="axis")
    inner = vmap() if inner is None else inner
    if inner.placement:
        raise ValueError(message(who, "inner", _INNER, inner.placement))
    devices = mesh.shape[axis]

    def run(
        client: Client,
        gather: RoundGather,
        shared: PyTree,
        partial: PyTree,
        inputs: PyTree,
        weights: Float[Array, " clients"],
    ) -> tuple[PyTree, Outputs]:
        # With check_vma=True, the gradient at replicated parameters would be summed over devices.
        @bind(
            jax.shard_map,
            mesh=mesh,
            in_specs=(P(), P(axis), P(axis)),
            out_specs=(P(), P(axis)),
            axis_names={axis},
            check_vma=False,
        )
        def run_share(
            shared: PyTree, inputs: PyTree, weights: Float[Array, " share"]
        ) -> tuple[PyTree, Outputs]:
            empty = gather.empty(shared)
            folded, outputs = inner.run(client, gather, shared, empty, inputs, weights)
            return _merged(folded, gather.merge, axis, devices), outputs

        folded, outputs = run_share(shared, inputs, weights)
        return gather.merge(partial, folded), outputs

    at_most = inner.at_most and inner.at_most * devices
    return ClientAxis(run, at_most, Placement(mesh, axis))


def _merged(
    partial: PyTree, merge: Callable[[PyTree, PyTree], PyTree], axis: str, devices: int
) -> PyTree:
    """Merge the partials of all devices in device order; every device gets the result."""
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
