"""Decompositions of stacked matrices, one matrix at a time.

On a CPU, jaxlib gives the matrices of a batch to its pool of threads, and the thread that did so
waits for them. That thread belongs to the pool: once as many batches have begun as the pool has
threads, none is left to work on them, and the program stands still for ever. A call with one matrix
computes it at once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, PyTree


def eigh(
    stack: Float[Array, "*matrices n n"],
) -> tuple[Float[Array, "*matrices n"], Float[Array, "*matrices n n"]]:
    """Compute eigenvalues, ascending, and eigenvectors, as columns, of symmetric matrices."""
    return _one_at_a_time(lambda matrix: tuple(jnp.linalg.eigh(matrix)), stack)


def svd(
    stack: Float[Array, "*matrices m n"],
) -> tuple[
    Float[Array, "*matrices m k"], Float[Array, "*matrices k"], Float[Array, "*matrices k n"]
]:
    """Compute the thin singular value decomposition: u, descending values, and v transposed."""
    return _one_at_a_time(lambda matrix: tuple(jnp.linalg.svd(matrix, full_matrices=False)), stack)


def orthonormal(stack: Float[Array, "*matrices m n"]) -> Float[Array, "*matrices m n"]:
    """Compute the q of the QR decomposition of matrices with at least as many rows as columns."""
    return _one_at_a_time(lambda matrix: jnp.linalg.qr(matrix)[0], stack)


def _one_at_a_time(decompose: Callable[[Array], PyTree], stack: Array) -> PyTree:
    @custom_vmap
    def each(stack: Array) -> PyTree:
        return jax.lax.map(decompose, stack)

    @each.def_vmap
    def more_matrices(size: int, batched: list[bool], stack: Array) -> tuple[PyTree, PyTree]:
        """Treat the clients of a `vmap` as more matrices."""
        del batched  # there is one argument, and so it is batched
        out = each(stack.reshape(-1, *stack.shape[2:]))
        out = jax.tree.map(lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:]), out)
        return out, jax.tree.map(lambda leaf: True, out)

    *outer, rows, columns = stack.shape
    out = each(stack.reshape(-1, rows, columns))
    return jax.tree.map(lambda leaf: leaf.reshape(*outer, *leaf.shape[1:]), out)
