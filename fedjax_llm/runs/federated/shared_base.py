"""One copy of the frozen base for all processes of a federation on one machine."""

import fcntl
import math
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from ...simulation.digest import digest

LEAST_BYTES = 2**24
"""Smaller bases stay in the memory of each process."""
_ALIGNED = 64  # JAX takes an array as it lies from such an address on; others it copies


def shared_base(frozen: PyTree, folder: Path) -> PyTree:
    """The same arrays in a file that processes map into memory, which holds it once for all.

    The first process writes the file, whose name has the digest of the arrays. On an accelerator,
    and for a small base, the arrays are returned as they are.

    Args:
        frozen: The arrays.
        folder: Folder of the file.

    """
    leaves, structure = jax.tree.flatten(frozen)
    if jax.default_backend() != "cpu" or sum(leaf.nbytes for leaf in leaves) < LEAST_BYTES:
        return frozen
    path = folder / f"base-{digest(frozen)}.bin"
    starts, end = [], 0
    for leaf in leaves:
        starts.append(end)
        end += math.ceil(leaf.nbytes / _ALIGNED) * _ALIGNED
    with (folder / ".base.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            with partial.open("wb") as written:
                for start, leaf in zip(starts, leaves, strict=True):
                    written.seek(start)
                    written.write(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
                written.truncate(end)
            partial.rename(path)
    whole = np.memmap(path, np.uint8, "r", shape=(end,))
    mapped = [
        jax.device_put(whole[start : start + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape))
        for start, leaf in zip(starts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, mapped)
