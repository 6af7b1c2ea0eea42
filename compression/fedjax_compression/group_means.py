"""Means of the groups of a vector's entries."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_PART = 2**14
"""Entries that are summed at a time: on a CPU, XLA takes ten times as long for several sums of a
vector of a million, and more for those of a batch of vectors."""


def group_means(
    x: Float[Array, " n"], groups: Int[Array, " n"], *, count: int
) -> Float[Array, " count"]:
    """The mean of the entries of each group below `count`; zero where it has none.

    Entries of other groups are left out.
    """
    part = min(max(x.size, 1), _PART)
    fill = -x.size % part

    def sums(part: tuple[Array, Array]) -> tuple[Array, Array]:
        own = [part[1] == group for group in range(count)]
        total = jnp.stack([jnp.where(o, part[0], 0.0).sum() for o in own])
        return total, jnp.stack([o.sum(dtype=jnp.float32) for o in own])

    rows = jnp.pad(x, (0, fill)), jnp.pad(groups, (0, fill), constant_values=count)
    total, number = jax.lax.map(sums, tuple(a.reshape(-1, part) for a in rows))
    return total.sum(axis=0) / jnp.maximum(number.sum(axis=0), 1.0)
