"""LoRA of different ranks on one server (HetLoRA, Cho et al. 2024, arXiv:2401.06432)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree


def resize_rank(params: PyTree, *, rank: int) -> PyTree:
    """LoRA's parameters at another rank: cut to the first columns of A and rows of B, or padded
    with zeros.

    A server that keeps the greatest rank sends a client its first `rank` of each, and pads what
    comes back, as HetLoRA does: `resize_rank(sent, rank=most)`. Padding does not change A B, where
    both are of the same scale: give all `lora(rank=r, alpha=c * r)` with one c. Cutting after
    padding gives back the same.
    Raises `ValueError` for a rank below 1, and for parameters with no LoRA among them.
    """
    if type(rank) is not int or rank < 1:
        raise ValueError(f"resize_rank: rank must be an integer of at least 1, got {rank!r}.")
    found = []

    def resized(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        if {"a", "b"} <= set(tree) and not isinstance(tree["a"], dict):
            found.append(tree)
            return {**tree, "a": _resized(tree["a"], rank, -1), "b": _resized(tree["b"], rank, -2)}
        return {name: resized(value) for name, value in tree.items()}

    result = resized(params)
    if not found:
        raise ValueError("resize_rank: expected LoRA parameters of one rank, found none.")
    return result


def _resized(leaf: Array, rank: int, axis: int) -> Array:
    held = leaf.shape[axis]
    if held >= rank:
        return jnp.take(leaf, jnp.arange(rank), axis=axis)
    widths = [(0, 0)] * leaf.ndim
    widths[axis] = (0, rank - held)
    return jnp.pad(leaf, widths)
