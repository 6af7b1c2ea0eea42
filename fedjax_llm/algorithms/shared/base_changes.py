"""Changes that a method adds to frozen kernels, beside the parameters that it trains."""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ...client_training import Frozen


def kernel_tree(changes: Iterable[tuple[tuple[str, ...], Any]]) -> PyTree:
    """Make the tree of kernel changes, in the nesting of `frozen`, from adapter paths and changes.

    A change at `path/adapter` goes to `path/kernel`. Raises `ValueError` for any other path.
    """
    tree: dict[str, Any] = {}
    for path, change in changes:
        if not path or path[-1] != "adapter":
            raise ValueError(
                "expected LoRA at a path that ends with adapter, beside its kernel, got "
                f"{'/'.join(map(str, path)) or 'the root'}; layers of different ranks or without "
                "an adapter have no kernel of their own."
            )
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node["kernel"] = change
    return tree


def changed(frozen: Frozen, change: PyTree) -> Frozen:
    """Add a tree of kernel changes to the frozen parameters, in float32, in their dtypes after.

    Raises `ValueError` where a kernel is not an array of the change's shape, such as a packed one.
    """
    if not isinstance(change, dict):
        if not hasattr(frozen, "astype") or frozen.shape != change.shape:
            got = getattr(frozen, "shape", "a packed one")
            raise ValueError(
                f"expected a frozen kernel of shape {change.shape}, to add the method's change to, "
                f"got {got}."
            )
        return _sum(frozen, change)
    if not isinstance(frozen, dict) or not set(change) <= set(frozen):
        raise ValueError(f"expected frozen parameters with {', '.join(change)}, got others.")
    return {**frozen, **{name: changed(frozen[name], change[name]) for name in change}}


def base_of(state: Any, frozen: Frozen) -> Frozen:
    """Compute the frozen parameters that a server's `params` belong to.

    A method that folds updates into the base model, such as FLoRA, keeps their sum in the field
    `base` of its server state. To evaluate or save such a model, use these frozen parameters.

    Args:
        state: The server state of any method.
        frozen: The frozen parameters at the start of the run.

    Returns:
        `frozen` plus the state's `base`, kernel by kernel, in the dtypes of `frozen`; `frozen`
        itself if the state has no `base`.

    Raises:
        ValueError: If a kernel with a change is not an array of the change's shape.

    Example:
        >>> from typing import Any, NamedTuple
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import base_of
        >>> class State(NamedTuple):
        ...     params: Any
        ...     base: Any
        >>> frozen = {"layer": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
        >>> base_of(State({}, {"layer": {"kernel": jnp.array([0.0, 3.0])}}), frozen)["layer"]
        {'kernel': Array([1., 4.], dtype=float32), 'bias': Array([1., 1.], dtype=float32)}

    """
    change = getattr(state, "base", None)
    return frozen if change is None else changed(frozen, change)


def _sum(kernel: Array, change: Float[Array, "..."]) -> Array:
    return (kernel.astype(jnp.float32) + change).astype(kernel.dtype)
