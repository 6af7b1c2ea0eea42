"""Trellis-coded quantisation below one bit per entry: each bit selects a word of several entries.

The trellis is the bit-shift trellis of Tseng et al. 2024, arXiv:2406.11235, section 3, with a word
instead of a value at each state. It is searched with the algorithm of Viterbi 1967.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int, UInt8

SPAN = 4096
"""Entries of one search, about. Searches run side by side."""
_SIDE_BY_SIDE = 64
"""Most searches in step; their tables fit in a core's cache."""
_GAUSSIAN = 2
"""Longest word whose entries are Gaussian; longer words all have the same norm."""
_PENALTY = 0.35
"""Weight of a Gaussian word's squared norm against its product with the entries: a word of several
times the entries' norm cannot be scaled down alone."""


def word_table(length: int, *, memory: int) -> Float[np.ndarray, "states length"]:
    """Words of a trellis, the same for everybody: random directions of mean square 1 per entry.

    Args:
        length: Entries of a word.
        memory: Bits of the state.

    """
    raw = np.random.Philox(0).random_raw((2, 2**memory, length))
    radius, angle = (raw >> 11) * 2.0**-53  # uniform; the bits of Philox are the same everywhere
    words = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)  # Box and Muller 1958
    if length > _GAUSSIAN:
        words *= np.sqrt(length / np.sum(words**2, axis=1, keepdims=True))
    return words.astype(np.float32)


def word_count(entries: int, length: int) -> int:
    """Number of words, and of bits, of a vector: whole words in each of a few equal searches."""
    steps, searches = _layout(entries, length)
    return steps * searches


def words_encode(
    x: Float[Array, " entries"], table: Float[np.ndarray, "states length"]
) -> UInt8[Array, " words"]:
    """Find bits whose `words_decode` has nearly the largest product with a vector.

    The path through the words of each search is optimal from a history of zeros. Costs about
    2 * 2**memory operations per entry, and memory of some searches at a time, also under `vmap`.

    Args:
        x: A vector of mean square 1 with at least one entry.
        table: The table of `word_table`.

    Returns:
        A bit for each of `word_count` words.

    """
    steps, searches = _layout(x.size, table.shape[1])
    x = jnp.pad(x, (0, steps * searches * table.shape[1] - x.size))
    return _searches(x.reshape(searches, steps, -1), table).reshape(-1)


def words_decode(
    bits: UInt8[Array, " words"], entries: int, table: Float[np.ndarray, "states length"]
) -> Float[Array, " entries"]:
    """Concatenate the words that the bits select."""
    steps, searches = _layout(entries, table.shape[1])
    memory = len(table).bit_length() - 1
    history = jnp.pad(bits.reshape(searches, steps).astype(jnp.int32), ((0, 0), (memory - 1, 0)))
    states = sum(history[:, memory - 1 - age :][:, :steps] << age for age in range(memory))
    return jnp.asarray(table)[states].reshape(-1)[:entries]


def _layout(entries: int, length: int) -> tuple[int, int]:
    """Steps of each search, and the number of searches."""
    words = -(-entries // length)
    searches = max(1, round(entries / SPAN))
    return -(-words // searches), searches


def _searches(
    x: Float[Array, "searches steps length"], table: Float[np.ndarray, "states length"]
) -> UInt8[Array, "searches steps"]:
    @custom_vmap
    def paths(x: Float[Array, "searches steps length"]) -> UInt8[Array, "searches steps"]:
        groups = -(-len(x) // _SIDE_BY_SIDE)
        size = -(-len(x) // groups)
        grouped = jnp.pad(x, ((0, groups * size - len(x)), (0, 0), (0, 0)))
        grouped = grouped.reshape(groups, size, *x.shape[1:])
        out = jax.lax.map(lambda group: _search(jnp.transpose(group, (1, 2, 0)), table), grouped)
        return jnp.swapaxes(out, 1, 2).reshape(-1, x.shape[1])[: len(x)]

    @paths.def_vmap
    def batch_as_searches(
        clients: int, batched: list[bool], x: Array
    ) -> tuple[UInt8[Array, "clients searches steps"], bool]:
        """Treat a batch axis as more searches, so that its size does not change the memory."""
        del batched  # there is one argument, and so it is batched
        return paths(x.reshape(-1, *x.shape[2:])).reshape(clients, -1, x.shape[2]), True

    return paths(x)


def _search(
    x: Float[Array, "steps length lanes"], table: Float[np.ndarray, "states length"]
) -> UInt8[Array, "steps lanes"]:
    """Run Viterbi's algorithm for a few searches in step; lanes are last, for vector instructions.

    A state shifted left, with the next bit, is the next state; so states `h` and `h + states / 2`
    lead to `2 h` and `2 h + 1`.
    """
    words, states = jnp.asarray(table), len(table)
    half = states // 2
    lanes = x.shape[2]
    penalty = _PENALTY * jnp.sum(words**2, axis=1)[:, None] if table.shape[1] <= _GAUSSIAN else 0.0

    def forward(
        best: Float[Array, "states lanes"], entries: Float[Array, "length lanes"]
    ) -> tuple[Float[Array, "states lanes"], Array]:
        without, with_oldest = best[:half], best[half:]
        larger = jnp.maximum(without, with_oldest)
        both = jnp.broadcast_to(larger[:, None], (half, 2, lanes)).reshape(states, lanes)
        gain = jnp.dot(words, entries, precision=jax.lax.Precision.HIGHEST) - penalty
        return both + gain, with_oldest > without

    def backward(
        state: Int[Array, " lanes"], oldest: Array
    ) -> tuple[Int[Array, " lanes"], UInt8[Array, " lanes"]]:
        history = state >> 1
        chosen = jnp.take_along_axis(oldest, history[None], axis=0)[0]
        return history + half * chosen.astype(state.dtype), (state & 1).astype(jnp.uint8)

    start = jnp.full((states, lanes), -jnp.inf).at[0].set(0.0)
    best, oldest = jax.lax.scan(forward, start, x)
    last = best.argmax(axis=0).astype(jnp.int32)
    return jax.lax.scan(backward, last, oldest, reverse=True)[1]
