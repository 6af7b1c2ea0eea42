"""Clips the whole update of a client to a bound on its Euclidean norm."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree


def clip_rows(
    rows: PyTree, bound: Float[Array, ""] | float | int
) -> tuple[PyTree[Float[Array, "clients ..."]], Bool[Array, " clients"]]:
    """Multiply each client's update by min(1, bound / its norm), the norm over all leaves together.

    Computed in float32, relative to the row's largest entry, so that no square overflows or
    vanishes: a row with entries of 1e30 keeps its direction.

    Guarantees: no row's norm exceeds the bound by more than rounding, a relative 1e-5 for a million
    entries; a row with a NaN or an infinity is zero; a row of zeros stays zero; a row within the
    bound is unchanged.

    Args:
        rows: Updates: leaves `[clients, ...]`, of any floating-point dtype.
        bound: Largest norm, above 0.

    Returns:
        The clipped rows in float32, and which rows were within the bound: `[clients]`. A row that
        is not finite was not.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.privacy import clip_rows
        >>> rows, within = clip_rows(jnp.array([[3.0, 4.0], [0.3, 0.4], [jnp.nan, 0.0]]), 1.0)
        >>> [[round(float(x), 5) for x in row] for row in rows], within.tolist()
        ([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], [False, True, False])

    """
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rows)
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(wide)]
    finite = jnp.stack([jnp.isfinite(leaf).all(axis=1) for leaf in leaves]).all(axis=0)
    largest = jnp.stack([jnp.abs(leaf).max(axis=1, initial=0.0) for leaf in leaves]).max(axis=0)
    unit = jnp.where(finite & (largest > 0), largest, 1.0)
    squares = jnp.stack([((leaf / unit[:, None]) ** 2).sum(axis=1) for leaf in leaves])
    relative = jnp.sqrt(squares.sum(axis=0))  # the norm over the largest entry
    within = finite & (unit * relative <= bound)
    shorten = bound / jnp.where(relative > 0, relative, 1.0)

    def clipped(leaf: Float[Array, "clients ..."]) -> Float[Array, "clients ..."]:
        def by_row(values: Array) -> Array:
            return values.reshape(-1, *[1] * (leaf.ndim - 1))

        kept = jnp.where(by_row(within), leaf, leaf / by_row(unit) * by_row(shorten))
        return jnp.where(by_row(finite), kept, 0.0)

    return jax.tree.map(clipped, wide), within
