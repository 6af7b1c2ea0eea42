"""What a method adds to frozen kernels, beside what it trains."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...client_training import Frozen


def kernel_tree(changes: Iterable[tuple[tuple[str, ...], Any]]) -> PyTree:
    """What is added to kernels, where `frozen` has them: by paths of their adapters.

    A product at `path` has its kernel at `path/kernel` and its adapter at `path/adapter`.
    Raises `ValueError` for any other path.
    """
    tree: dict[str, Any] = {}
    for path, change in changes:
        if not path or path[-1] != "adapter":
            raise ValueError(
                f"expected LoRA at a path that ends with adapter, beside its kernel, "
                f"got {'/'.join(map(str, path)) or 'the root'}: layers of different ranks, or of "
                "no adapter, have no kernel of their own."
            )
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node["kernel"] = change
    return tree


def changed(frozen: Frozen, change: PyTree) -> Frozen:
    """The frozen parameters with what is added to some of them; in float32, then back.

    Raises `ValueError` where a kernel is not an array there, as a packed one is not.
    """
    if not isinstance(change, dict):
        if not hasattr(frozen, "astype") or frozen.shape != change.shape:
            got = getattr(frozen, "shape", "a packed one")
            raise ValueError(
                f"expected a frozen kernel of shape {change.shape} for what the method adds to it, "
                f"got {got}."
            )
        return _sum(frozen, change)
    if not isinstance(frozen, dict) or not set(change) <= set(frozen):
        raise ValueError(f"expected frozen parameters with {', '.join(change)}, got others.")
    return {**frozen, **{name: changed(frozen[name], change[name]) for name in change}}


def base_of(state: Any, frozen: Frozen) -> Frozen:
    """What a server's `params` belong to: `frozen`, with what the method has added to it (`base`
    of the server's state), if it adds anything.
    """
    change = getattr(state, "base", None)
    return frozen if change is None else changed(frozen, change)


def _sum(kernel: Array, change: Float[Array, "..."]) -> Array:
    return (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
