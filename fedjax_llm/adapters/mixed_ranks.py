"""LoRA of different ranks on one server (HetLoRA, Cho et al. 2024, arXiv:2401.06432)."""

from typing import Any

import jax.numpy as jnp
from fedjax_compression.checks import check_integer
from jaxtyping import Array, PyTree


def resize_rank(params: PyTree, *, rank: int) -> PyTree:
    """Change the rank of LoRA parameters: truncate A's columns and B's rows, or pad with zeros.

    As in HetLoRA: a server with the largest rank sends a client its first `rank` columns and rows,
    and pads what comes back with `resize_rank(update, rank=largest)`. Padding leaves A B unchanged,
    but the scale alpha / rank depends on the rank: give every client `lora(rank=r, alpha=c * r)`
    with the same c. Truncating after padding restores the parameters exactly.

    Args:
        params: Parameters with LoRA's `a`, `[..., inputs, rank]`, and `b`, `[..., rank, outputs]`,
            at any depth. Other leaves are unchanged, as is a LoRA whose layers have several ranks.
        rank: The new rank, at least 1.

    Returns:
        The parameters in the same structure.

    Raises:
        ValueError: For a rank below 1, and if there is no LoRA whose layers share one rank.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.adapters import resize_rank
        >>> params = {"q_proj": {"a": jnp.ones((8, 2)), "b": jnp.ones((2, 4))}}
        >>> jax.tree.map(jnp.shape, resize_rank(params, rank=5))
        {'q_proj': {'a': (8, 5), 'b': (5, 4)}}

    """
    check_integer(rank, who="resize_rank", name="rank", at_least=1)
    found = False

    def resized(tree: Any) -> Any:
        nonlocal found
        if not isinstance(tree, dict):
            return tree
        if {"a", "b"} <= set(tree) and not isinstance(tree["a"], dict):
            found = True
            return {**tree, "a": _resized(tree["a"], rank, -1), "b": _resized(tree["b"], rank, -2)}
        return {name: resized(value) for name, value in tree.items()}

    result = resized(params)
    if not found:
        raise ValueError(
            "resize_rank: params: expected LoRA parameters whose layers share one rank, got none."
        )
    return result


def _resized(leaf: Array, rank: int, axis: int) -> Array:
    before = leaf.shape[axis]
    if before >= rank:
        return jnp.take(leaf, jnp.arange(rank), axis=axis)
    widths = [(0, 0)] * leaf.ndim
    widths[axis] = (0, rank - before)
    return jnp.pad(leaf, widths)
