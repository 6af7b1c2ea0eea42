"""Entropy-coded trellis quantisation on union codebooks.

Marcellin & Fischer 1990; Fischer & Wang 1992; zero in both codebooks after Marcellin 1994. The
trellis is Ungerboeck's (1987), searched by the algorithm of Viterbi 1967.

The multiples of a step are two codebooks: the even ones, and zero with the odd ones. A code k names
2k in the first and 2k - sgn(k) in the second. A shift register, which takes in the parity of each
code, says which codebook is next: a code thus costs what it would cost with twice the step, and the
path that is chosen among all errs like one with a finer step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

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
"""Parity checks by number of states. Up to 256 Ungerboeck's; above, the best of some random ones
for a Gaussian at one bit."""
LANE = 1024
"""Entries that one path walks through. Each path starts in state zero."""
_DIRECT, _PER_OCTAVE = 16, 8
LEVELS = _DIRECT + _PER_OCTAVE * 20
"""Levels of magnitude that are told apart: 0 to 15, and then eight to the octave, four of either
parity; `trellis_symbols` has a symbol for each and either sign."""
_NEVER = 1e9


def check_trellis(rate: float | int, states: int, *, who: str) -> None:
    """Raise `ValueError` unless 0 < rate <= 8 and there is a trellis of so many states."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 8:
        raise ValueError(f"{who}: rate must be above 0 and at most 8, got {rate!r}.")
    if type(states) is not int or states not in POLYNOMIALS:
        known = ", ".join(map(str, POLYNOMIALS))
        raise ValueError(f"{who}: states must be one of {known}, got {states!r}.")


def lanes(entries: int) -> tuple[int, int]:
    """Number and length of the paths that so many entries are coded by; the last may be short."""
    steps = max(min(entries, LANE), 1)
    return -(-entries // steps), steps


def successor(states: Any, odd: Any, *, count: int) -> Any:
    """The states after codes that are odd or not: the same integers in the program and outside.

    A state's lowest bit is the codebook that its code is from.
    """
    first, second = POLYNOMIALS[count]
    return (states >> 1) ^ ((states & 1) * (first >> 1)) ^ (odd * (second >> 1))


def points(codes: Int[Array, "..."], codebooks: Int[Array, "..."]) -> Int[Array, "..."]:
    """What codes of given codebooks name, in steps."""
    return 2 * codes - jnp.sign(codes) * codebooks


def levels(magnitudes: Int[Array, "..."]) -> Int[Array, "..."]:
    """The level of each magnitude below 2**24."""
    half = magnitudes >> 1
    bits = jax.lax.bitcast_convert_type(half.astype(jnp.float32), jnp.int32)
    octaves = (bits >> 21) - ((127 + 3) * _PER_OCTAVE - _DIRECT) // 2  # exponent and two bits more
    own = jnp.where(magnitudes < _DIRECT, half, jnp.minimum(octaves, LEVELS // 2 - 1))
    return 2 * own + (magnitudes & 1)


def bits_below_level() -> Float[np.ndarray, " levels"]:
    """How many bits tell the magnitudes of a level apart."""
    above = np.arange(LEVELS) - _DIRECT
    return np.where(above < 0, 0, above // _PER_OCTAVE + 1).astype(np.float32)


def codebooks(codes: Int[Array, " n"], *, states: int) -> Int[Array, " n"]:
    """The codebook of each code, 0 or 1."""
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
    """The codes of least squared error, in steps, plus their prices.

    `prices` are those of a magnitude of code by class and codebook, in squared steps. Of each
    codebook and parity one point stands for all, or zero. Costs about 4 * states operations an
    entry, and memory for a few paths at a time.
    """
    count, steps = lanes(x.size)
    side_by_side = min(max(2**13 // states, 32), 128, count)  # what a core's cache holds
    groups = -(-count // side_by_side)
    fill = groups * side_by_side * steps - x.size
    # two levels up is dearer by so much that the border between two points lies above the middle
    dearer = jnp.clip(prices[:, :, 3] - prices[:, :, 1], 0.0, 3.0).mean()
    border = 0.5 - dearer / 32

    def grouped(a: Array) -> Array:
        rows = jnp.pad(a, (0, fill)).reshape(groups, side_by_side, steps)
        return rows.transpose(0, 2, 1)

    def one(group: tuple[Array, Array]) -> Array:
        magnitude, own = group

        def best(book: Any, odd: Any) -> tuple[Array, Array]:
            return _best(magnitude, own, prices.reshape(-1), border, book, odd)

        branches = [best(book, odd)[1] for odd in (0, 1) for book in (0, 1)]
        branch = _walk(jnp.stack(branches, axis=1), states).astype(jnp.int32)
        return best(branch & 1, branch >> 1)[0]

    found = jax.lax.map(one, (grouped(jnp.abs(x)), grouped(classes)))
    codes = found.transpose(0, 2, 1).reshape(-1)[: x.size]
    return jnp.where(x < 0, -codes, codes)


def _best(
    magnitude: Float[Array, "steps lanes"],
    classes: Int[Array, "steps lanes"],
    prices: Float[Array, " rows"],
    border: Float[Array, ""],
    book: Any,
    odd: Any,
) -> tuple[Int[Array, "steps lanes"], Float[Array, "steps lanes"]]:
    """The code of a codebook and a parity, and its cost: of the nearest point, or of zero."""
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
    """Viterbi's algorithm, the lanes last as vectors want them.

    The costs are those of the codebooks and parities 00, 10, 01, 11, and so are the results. States
    are numbered by the newest bits of a shift register, so that no row moves between two steps.
    """
    half, width = states // 2, costs.shape[2]
    branches = _branches(states)

    def forward(
        best: Float[Array, "states lanes"], cost: Float[Array, "4 lanes"]
    ) -> tuple[Float[Array, "states lanes"], Bool[Array, "states lanes"]]:
        own = cost.at[branches].get(mode="promise_in_bounds").reshape(2, half, 2, width)
        total = (best.reshape(2, half, 1, width) + own).reshape(2, states, width)
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
    """Twice the parity of the code, plus its codebook, for each content of a shift register.

    Parities are sums of the bits in it by the first polynomial and codebooks by the second, which
    are all the sequences that the check allows, each of them once.
    """
    first, second = POLYNOMIALS[states]
    registers = range(2 * states)
    odd = [(register & first).bit_count() % 2 for register in registers]
    book = [(register & second).bit_count() % 2 for register in registers]
    return jnp.array([2 * o + b for o, b in zip(odd, book, strict=True)], jnp.int8)
