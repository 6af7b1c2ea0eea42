"""Entropy-coded trellis quantisation on union codebooks.

Marcellin & Fischer 1990; Fischer & Wang 1992; zero in both codebooks after Marcellin 1994. The
trellis is Ungerboeck's (1987), searched with the algorithm of Viterbi 1967.

The multiples of a step form two codebooks: the even multiples, and the odd multiples with zero. A
code k stands for 2k in the first codebook and for 2k - sgn(k) in the second. A shift register fed
with the parity of each code selects the codebook of the next code. A code therefore costs as many
bits as it would with twice the step, while the best path has the error of a finer step.

A path is the sequence of codes of up to 1024 consecutive entries. Paths are independent, so they
are searched side by side, one in each lane.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..checks import check_choice, check_number

POLYNOMIALS = {
    4: (0o5, 0o2),
    8: (0o13, 0o4),
    16: (0o23, 0o4),
    32: (0o45, 0o10),
    64: (0o103, 0o24),
    128: (0o235, 0o126),
    256: (0o515, 0o362),
    512: (0o1525, 0o616),
    1024: (0o3031, 0o1722),
}
"""Parity-check polynomials by number of states: Ungerboeck's up to 256; above, the best of some
random polynomials for a Gaussian at one bit."""
LANE = 1024
"""Entries of one path. Each path starts in state zero."""
_DIRECT, _PER_OCTAVE = 16, 8
LEVELS = _DIRECT + _PER_OCTAVE * 20
"""Number of levels. A level is a set of magnitudes of codes: there is one for each magnitude from 0
to 15, then eight per octave, four of each parity. `trellis_symbols` has a symbol for each level and
sign."""
_NEVER = 1e9
"""Cost of a state in which a path cannot start."""


def check_trellis(rate: float | int, states: int, *, who: str) -> None:
    """Raise `ValueError` unless 0 < rate <= 8 and a trellis with that number of states exists."""
    check_number(rate, who=who, name="rate", above=0, at_most=8)
    check_choice(states, tuple(POLYNOMIALS), who=who, name="states")


def lanes(entries: int) -> tuple[int, int]:
    """Number and length of the paths that encode a vector; the last path may be shorter."""
    steps = max(min(entries, LANE), 1)
    return -(-entries // steps), steps


def successor(states: Any, odd: Any, *, count: int) -> Any:
    """Next states of the trellis.

    The arithmetic is the same for traced arrays and for NumPy arrays on the host.

    Args:
        states: Current states. A state's lowest bit is the codebook of the code read in it.
        odd: Parity of each code read, 0 or 1.
        count: Number of states of the trellis, a key of `POLYNOMIALS`.

    Returns:
        The states after those codes.

    """
    first, second = POLYNOMIALS[count]
    return (states >> 1) ^ ((states & 1) * (first >> 1)) ^ (odd * (second >> 1))


def points(codes: Int[Array, "..."], codebooks: Int[Array, "..."]) -> Int[Array, "..."]:
    """Values of codes from the given codebooks (0 or 1), in steps."""
    return 2 * codes - jnp.sign(codes) * codebooks


def levels(magnitudes: Int[Array, "..."]) -> Int[Array, "..."]:
    """Level of each magnitude below 2**24."""
    half = magnitudes >> 1
    bits = jax.lax.bitcast_convert_type(half.astype(jnp.float32), jnp.int32)
    # bits >> 21 is the exponent followed by the two leading bits of the mantissa
    octaves = (bits >> 21) - ((127 + 3) * _PER_OCTAVE - _DIRECT) // 2
    pair = jnp.where(magnitudes < _DIRECT, half, jnp.minimum(octaves, LEVELS // 2 - 1))
    return 2 * pair + (magnitudes & 1)


def bits_below_level() -> Float[np.ndarray, " levels"]:
    """Number of bits that distinguish the magnitudes within each level."""
    above = np.arange(LEVELS) - _DIRECT
    return np.where(above < 0, 0, above // _PER_OCTAVE + 1).astype(np.float32)


def codebooks(codes: Int[Array, " n"], *, states: int) -> Int[Array, " n"]:
    """Codebook of each code, 0 or 1, which follows from the codes before it on its path."""
    count, steps = lanes(codes.size)
    rows = jnp.pad(codes, (0, count * steps - codes.size)).reshape(count, steps)

    def step(state: Array, code: Array) -> tuple[Array, Array]:
        return successor(state, code & 1, count=states), (state & 1).astype(jnp.int8)

    start = jnp.zeros((count,), codes.dtype)
    _, out = jax.lax.scan(step, start, rows.T)
    return out.T.reshape(-1)[: codes.size].astype(codes.dtype)


def search(
    x: Float[Array, " n"],
    classes: Int[Array, " n"],
    prices: Float[Array, "classes 2 levels"],
    *,
    states: int,
) -> Int[Array, " n"]:
    """Find the codes of approximately least squared error plus price.

    Viterbi's algorithm over the trellis. For each codebook and parity, only the nearest point and
    zero are candidates. Costs about 4 * states operations per entry, and the memory of a few paths
    at a time.

    Args:
        x: Entries, in steps.
        classes: Class of each entry, which selects its prices.
        prices: Price of each level of a code's magnitude, by class and codebook, in squared steps.
        states: Number of states of the trellis, a key of `POLYNOMIALS`.

    Returns:
        One code per entry, of the sign of the entry or zero.

    """
    count, steps = lanes(x.size)
    side_by_side = min(max(2**13 // states, 32), 128, count)  # fits in a core's cache
    groups = -(-count // side_by_side)
    fill = groups * side_by_side * steps - x.size
    # the larger of two points costs more, so the border between them lies above their midpoint
    extra = jnp.clip(prices[:, :, 3] - prices[:, :, 1], 0.0, 3.0).mean()
    border = 0.5 - extra / 32

    def grouped(a: Array) -> Array:
        rows = jnp.pad(a, (0, fill)).reshape(groups, side_by_side, steps)
        return rows.transpose(0, 2, 1)

    def search_group(group: tuple[Array, Array]) -> Array:
        magnitude, class_of = group

        def best(book: Any, odd: Any) -> tuple[Array, Array]:
            return _best(magnitude, class_of, prices.reshape(-1), border, book, odd)

        branches = [best(book, odd)[1] for odd in (0, 1) for book in (0, 1)]
        branch = _walk(jnp.stack(branches, axis=1), states).astype(jnp.int32)
        return best(branch & 1, branch >> 1)[0]

    by_group = jax.lax.map(search_group, (grouped(jnp.abs(x)), grouped(classes)))
    codes = by_group.transpose(0, 2, 1).reshape(-1)[: x.size]
    return jnp.where(x < 0, -codes, codes)


def _best(
    magnitude: Float[Array, "steps lanes"],
    classes: Int[Array, "steps lanes"],
    prices: Float[Array, " rows"],
    border: Float[Array, ""],
    book: Any,
    odd: Any,
) -> tuple[Int[Array, "steps lanes"], Float[Array, "steps lanes"]]:
    """Cheaper code, of a given codebook and parity, for the nearest point or for zero; its cost."""
    row = (classes * 2 + book) * LEVELS

    def price(level: Any) -> Array:
        return prices.at[row + level].get(mode="promise_in_bounds")

    shift = jnp.asarray(book - 2 * odd, magnitude.dtype)
    place = jnp.floor((magnitude + shift) * 0.25 + border).astype(jnp.int32)
    code = 2 * jnp.maximum(place, 0) + odd
    point = 2 * code - jnp.where(code > 0, book, 0)
    cost = (magnitude - point.astype(magnitude.dtype)) ** 2 + price(levels(code))
    if isinstance(odd, int) and odd:
        return code, cost
    zero = magnitude**2 + price(0)
    better = (zero < cost) & (odd == 0)
    return jnp.where(better, 0, code), jnp.where(better, zero, cost)


def _walk(costs: Float[Array, "steps 4 lanes"], states: int) -> Int[Array, "steps lanes"]:
    """Find the branch of the cheapest path at each step with Viterbi's algorithm.

    A branch is twice the parity of a code plus its codebook; `costs` has one row per branch. Lanes
    are the last axis, for vector instructions. States are numbered by the newest bits of a shift
    register, so that no row moves between two steps.
    """
    half, width = states // 2, costs.shape[2]
    branches = _branches(states)

    def forward(
        best: Float[Array, "states lanes"], cost: Float[Array, "4 lanes"]
    ) -> tuple[Float[Array, "states lanes"], Bool[Array, "states lanes"]]:
        added = cost.at[branches].get(mode="promise_in_bounds").reshape(2, half, 2, width)
        total = (best.reshape(2, half, 1, width) + added).reshape(2, states, width)
        return jnp.minimum(total[0], total[1]), total[1] < total[0]

    def backward(
        state: Int[Array, " lanes"], chosen: Bool[Array, "states lanes"]
    ) -> tuple[Int[Array, " lanes"], Int[Array, " lanes"]]:
        oldest = jnp.take_along_axis(chosen, state[None], axis=0)[0].astype(state.dtype)
        branch = branches.at[oldest * states + state].get(mode="promise_in_bounds")
        return oldest * half + (state >> 1), branch

    never = jnp.full((states, width), _NEVER, costs.dtype)
    last, chosen = jax.lax.scan(forward, never.at[0].set(0.0), costs)
    end = last.argmin(axis=0).astype(jnp.int32)
    _, branch = jax.lax.scan(backward, end, chosen, reverse=True)
    return branch


def _branches(states: int) -> Int[Array, " registers"]:
    """Branch for each content of a shift register: twice the code's parity plus its codebook.

    The parity is the sum modulo 2 of the register's bits that the first polynomial selects, and the
    codebook that of the bits that the second selects. This generates every sequence that satisfies
    the parity check exactly once.
    """
    first, second = POLYNOMIALS[states]
    registers = range(2 * states)
    odd = [(register & first).bit_count() % 2 for register in registers]
    book = [(register & second).bit_count() % 2 for register in registers]
    return jnp.array([2 * o + b for o, b in zip(odd, book, strict=True)], jnp.int8)
