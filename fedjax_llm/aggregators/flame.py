"""FLAME (Nguyen et al. 2022, arXiv:2101.02281)."""

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_number
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .clipping import clip_factors, scaled
from .contract import Aggregator
from .held import held_from_round
from .rows import Rows, cosines, mean_of, median_value, norms


def flame(noise: float | int) -> Aggregator:
    """Keep the densest majority by cosine, clip it to the median norm, average it and add noise.

    The majority is the cluster that HDBSCAN finds with `min_cluster_size` floor(n/2) + 1,
    `min_samples` 1 and `allow_single_cluster`: the smallest single-linkage component, by cosine
    distance, of more than half of the clients. The clip norm is the median norm of all clients; the
    noise is Gaussian with `noise` times that norm as its standard deviation in each coordinate.

    Unweighted. Breakdown point 1/2: with fewer than half of the clients bad, a majority has an
    honest member, and no update is longer than an honest one; a bad client whose direction is near
    to honest ones stays in. One pass for cosines, n x n products and n steps on them; the updates
    are held, and their directions: 8 bytes per entry and client. The noise gives no privacy that
    is accounted for.

    Args:
        noise: Standard deviation of the noise over the median norm, at least 0. The paper derives
            it from a privacy budget; there is no default.

    Returns:
        The `Aggregator`, with `begin`. Zero, without noise, where no client was accepted.

    Raises:
        ValueError: For a `noise` that is not a finite number of at least 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.aggregators import flame
        >>> rule, rows = flame(noise=0.0), jnp.array([[4.0, 3.0], [3.0, 4.0], [-50.0, 0.0]])
        >>> rule.finish(rule.add(rule.empty(jnp.zeros(2), 3), rows, jnp.ones(3))).tolist()
        [3.5, 3.5]

    """
    check_number(noise, who="flame", name="noise", at_least=0)

    def rule(
        rows: Rows, chosen: Bool[Array, " clients"], key: Key[Array, ""], last: PyTree
    ) -> PyTree:
        length = norms(rows)
        limit = median_value(length, chosen)
        kept = majority(1 - cosines(rows), chosen)
        average = mean_of(kept, scaled(rows, clip_factors(length, limit)))
        if noise == 0:
            return average
        leaves, structure = jax.tree.flatten(average)
        drawn = [
            leaf + noise * limit * jr.normal(jr.fold_in(key, i), leaf.shape, jnp.float32)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, drawn)

    return held_from_round(rule, who="flame")


def majority(
    distances: Float[Array, "clients clients"], chosen: Bool[Array, " clients"]
) -> Bool[Array, " clients"]:
    """The smallest single-linkage component that has more than half of the chosen rows.

    The height at which two rows join is the smallest, over paths between them, of the longest
    step. n steps of n^2.
    """
    both = chosen[None] & chosen[:, None]
    distances = jnp.where(jnp.eye(len(chosen), dtype=bool), 0.0, jnp.maximum(distances, 0.0))
    heights = jnp.where(both, distances, jnp.inf)

    def through(k: Int[Array, ""], heights: Array) -> Array:
        return jnp.minimum(heights, jnp.maximum(heights[:, k][:, None], heights[k][None]))

    heights = jax.lax.fori_loop(0, len(chosen), through, heights)
    more_than_half = chosen.sum() // 2  # the index of the member that makes a majority
    needed = jnp.sort(heights, axis=1)[:, more_than_half]
    densest = jnp.argmin(jnp.where(chosen, needed, jnp.inf))
    return (heights[densest] <= needed[densest]) & chosen
