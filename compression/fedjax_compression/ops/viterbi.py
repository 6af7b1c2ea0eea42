"""Trellis-coded quantisation on a bit-shift trellis.

The trellis is that of Tseng et al. 2024, arXiv:2406.11235, section 3, searched with the algorithm
of Viterbi 1967. Trellis-coded quantisation is from Marcellin and Fischer 1990.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float, Int, UInt32

STEPS = 1024
"""Entries of one search. Searches run side by side."""
MARGIN = 64
"""Entries on each side of a join between two searches that determine the state at the join."""


def trellis_encode(
    x: Float[Array, " entries"], table: Float[np.ndarray, " states"], *, bits: int
) -> UInt32[Array, " entries"]:
    """Find codes whose `trellis_decode` is close to x in squared error.

    The path is optimal except at the joins between searches of 1024 entries: the state at a join
    is that of the best path through the 64 entries on each side. Costs about 4 * len(table)
    operations per entry. Memory is that of a few searches at a time, for any number of entries and
    also under `vmap`.

    Args:
        x: Entries, in units of the table; at least one.
        table: Value of each state. Its length is a power of two, at least 2**bits.
        bits: Bits per code.

    Returns:
        One code below 2**bits per entry.

    """
    searches = -(-x.size // STEPS)
    steps = min(x.size, STEPS)
    rows = jnp.pad(x, (0, searches * steps - x.size)).reshape(searches, steps)
    free = jnp.full((searches - 1,), -1)
    first = jnp.zeros((1,), free.dtype)  # the history before the first entry is all zeros
    joins = free
    if searches > 1:
        around = jnp.concatenate([rows[:-1, -MARGIN:], rows[1:, :MARGIN]], axis=1)
        joins = _paths(around, free, free, table, bits)[:, MARGIN - 1] % (len(table) >> bits)
    starts = jnp.concatenate([first, joins])
    ends = jnp.concatenate([joins, first - 1])
    path = _paths(rows, starts, ends, table, bits)
    return (path.reshape(-1)[: x.size] % 2**bits).astype(jnp.uint32)


def trellis_decode(
    codes: UInt32[Array, " entries"], table: Float[np.ndarray, " states"], *, bits: int
) -> Float[Array, " entries"]:
    """Look up the table's value at the state of each entry.

    A state is the last log2(len(table)) bits of the codes up to and including the entry's.
    """
    memory = len(table).bit_length() - 1
    window = -(-memory // bits)
    history = jnp.pad(codes, (window - 1, 0))
    states = sum(history[window - 1 - i :][: codes.size] << i * bits for i in range(window))
    return jnp.asarray(table)[states % len(table)]


def _paths(
    x: Float[Array, "searches steps"],
    starts: Int[Array, " searches"],
    ends: Int[Array, " searches"],
    table: Float[np.ndarray, " states"],
    bits: int,
) -> Int[Array, "searches steps"]:
    """States of the best path of each search between given start and end histories (-1: any).

    A history is the part of a state that the next state keeps: all but its `bits` oldest bits.
    """
    side_by_side = min(max(2**15 // len(table), 8), 64)  # fits in a core's cache

    @custom_vmap
    def paths(
        x: Float[Array, "searches steps"],
        starts: Int[Array, " searches"],
        ends: Int[Array, " searches"],
    ) -> Int[Array, "searches steps"]:
        searches, steps = x.shape
        groups = -(-searches // side_by_side)
        size = -(-searches // groups)
        grouped = [
            jnp.pad(a, ((0, groups * size - searches), *((0, 0),) * (a.ndim - 1))).reshape(
                groups, size, *a.shape[1:]
            )
            for a in (x, starts, ends)
        ]
        out = jax.lax.map(lambda group: _search(group[0], group[1], group[2], table, bits), grouped)
        return out.reshape(-1, steps)[:searches]

    @paths.def_vmap
    def batch_as_searches(
        clients: int, batched: list[bool], *arguments: Array
    ) -> tuple[Int[Array, "clients searches steps"], bool]:
        """Treat a batch axis as more searches, so that its size does not change the memory."""
        stacked = [
            a if is_batched else jnp.broadcast_to(a, (clients, *a.shape))
            for a, is_batched in zip(arguments, batched, strict=True)
        ]
        out = paths(*(a.reshape(-1, *a.shape[2:]) for a in stacked))
        return out.reshape(clients, -1, out.shape[-1]), True

    return paths(x, starts, ends)


def _search(
    x: Float[Array, "lanes steps"],
    starts: Int[Array, " lanes"],
    ends: Int[Array, " lanes"],
    table: Float[np.ndarray, " states"],
    bits: int,
) -> Int[Array, "lanes steps"]:
    """Run Viterbi's algorithm for a few searches in step, one per lane.

    Lanes are the last axis, for vector instructions.
    """
    histories = len(table) >> bits
    values = jnp.asarray(table)[:, None]

    def forward(
        best: Float[Array, "histories lanes"], entry: Float[Array, " lanes"]
    ) -> tuple[Float[Array, "histories lanes"], Array]:
        # (entry - value)^2 without the square of the entry, which is the same for all paths
        error = jnp.repeat(best, 2**bits, axis=0) + values * (values - 2 * entry)
        by_oldest = error.reshape(2**bits, histories, -1)
        return by_oldest.min(axis=0), by_oldest.argmin(axis=0).astype(jnp.uint8)

    def backward(
        history: Int[Array, " lanes"], oldest: Array
    ) -> tuple[Int[Array, " lanes"], Int[Array, " lanes"]]:
        chosen = jnp.take_along_axis(oldest, history[None], axis=0)[0]
        state = chosen.astype(history.dtype) * histories + history
        return state >> bits, state

    def allowed(pinned: Int[Array, " lanes"]) -> Bool[Array, "histories lanes"]:
        return (pinned < 0) | (jnp.arange(histories)[:, None] == pinned)

    squares = (x * x).sum(axis=1)
    best, oldest = jax.lax.scan(forward, jnp.where(allowed(starts), squares, jnp.inf), x.T)
    last = jnp.where(allowed(ends), best, jnp.inf).argmin(axis=0).astype(starts.dtype)
    _, states = jax.lax.scan(backward, last, oldest, reverse=True)
    return states.T
