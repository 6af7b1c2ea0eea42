import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops.union_trellis import (
    LANE,
    LEVELS,
    POLYNOMIALS,
    bits_below_level,
    codebooks,
    levels,
    points,
    search,
)

FREE = jnp.zeros((1, 2, LEVELS))
"""Prices of zero."""


def checked(codes, states):
    """Codebooks by the definition of the parity check, code by code."""
    first, second = POLYNOMIALS[states]
    memory = states.bit_length() - 1
    assert first & 1, "the check must determine the codebook"
    assert not second & 1, "a code must not choose its own codebook"
    out = []
    for start in range(0, len(codes), LANE):
        books, odd = [], [int(code) % 2 for code in codes[start : start + LANE]]
        for n in range(len(odd)):
            check = 0
            for i in range(1, min(n, memory) + 1):
                check += (first >> i & 1) * books[n - i] + (second >> i & 1) * odd[n - i]
            books.append(check % 2)
        out += books
    return np.array(out)


def searched(x, *, states, prices=FREE):
    codes = jax.jit(lambda x: search(x, jnp.zeros(x.size, jnp.int32), prices, states=states))(x)
    return codes, points(codes, codebooks(codes, states=states)).astype(jnp.float32)


def squared_error(x, **kwargs):
    _, named = searched(x, **kwargs)
    return float(((x - named) ** 2).sum())


def least_error(x, states):
    """Least squared error over all paths, by enumerating the parities of their codes."""
    codes = np.arange(-6, 7)
    best = np.inf
    for parities in itertools.product((0, 1), repeat=len(x)):
        error = 0.0
        for value, odd, book in zip(x, parities, checked(parities, states), strict=True):
            candidates = codes[codes % 2 == odd]
            named = 2 * candidates - np.sign(candidates) * book
            error += ((value - named) ** 2).min()
        best = min(best, error)
    return best


@pytest.mark.parametrize("states", POLYNOMIALS)
def test_codebooks_satisfy_the_parity_check(states):
    codes = np.random.default_rng(states).integers(-9, 10, 2 * LANE + 300).astype(np.int32)
    got = codebooks(jnp.asarray(codes), states=states)
    np.testing.assert_array_equal(got, checked(codes, states))
    assert 0.4 < np.mean(np.asarray(got)) < 0.6


@pytest.mark.parametrize("entries", [0, 1, LANE - 1, LANE, LANE + 1])
def test_any_number_of_codes_has_codebooks(entries):
    codes = np.random.default_rng(0).integers(-2, 3, entries).astype(np.int32)
    got = codebooks(jnp.asarray(codes), states=8)
    np.testing.assert_array_equal(got, checked(codes, 8))


def test_each_path_starts_from_zeros():
    codes = jnp.tile(jr.randint(jr.key(0), (LANE,), -3, 4), 3)
    got = codebooks(codes, states=64).reshape(3, LANE)
    np.testing.assert_array_equal(got, jnp.broadcast_to(got[0], got.shape))


def test_points_are_even_in_one_codebook_and_odd_or_zero_in_the_other():
    codes = jnp.arange(-3, 4)
    np.testing.assert_array_equal(points(codes, jnp.zeros(7, int)), [-6, -4, -2, 0, 2, 4, 6])
    np.testing.assert_array_equal(points(codes, jnp.ones(7, int)), [-5, -3, -1, 0, 1, 3, 5])


@pytest.mark.slow
@pytest.mark.parametrize("states", [4, 8, 16])
def test_no_path_is_closer(states):
    for seed in range(4):
        x = 2.5 * jr.normal(jr.key(seed), (8,))
        least = least_error(np.asarray(x, np.float64), states)
        assert squared_error(x, states=states) == pytest.approx(least, rel=1e-4)


@pytest.mark.slow
def test_more_states_err_less():
    x = 4 * jr.normal(jr.key(0), (2**15,))
    few, some, many = (squared_error(x, states=states) for states in (4, 16, 64))
    assert many < 0.98 * some < 0.98**2 * few
    assert few < x.size / 12 * 2**2  # the error with the even points alone


def test_points_of_a_path_are_exact():
    codes = jr.randint(jr.key(0), (LANE,), -20, 21)
    x = points(codes, codebooks(codes, states=32)).astype(jnp.float32)
    assert squared_error(x, states=32) == 0


def test_a_search_commutes_with_the_sign():
    x = 3 * jr.normal(jr.key(0), (3000,))
    codes, _ = searched(x, states=8)
    np.testing.assert_array_equal(searched(-x, states=8)[0], -codes)


@pytest.mark.slow
def test_expensive_codes_are_avoided():
    x = 3 * jr.normal(jr.key(0), (4096,))
    expensive = FREE.at[:, :, 1:].set(1.0)  # every code but zero costs one
    zeros = [
        int((searched(x, states=8, prices=weight * expensive)[0] == 0).sum())
        for weight in (0.0, 2.0, 1e4)
    ]
    assert zeros[0] < zeros[1] < zeros[2] == x.size


@pytest.mark.slow
def test_no_path_is_cheaper_with_prices_by_class():
    x, classes = 2.5 * jr.normal(jr.key(5), (8,)), jnp.arange(8) // 4
    prices = jr.uniform(jr.key(6), (2, 2, LEVELS)) * 2
    codes = search(x, classes, prices, states=4)

    def cost(codes):
        books = checked(codes, 4)
        named = 2 * codes - np.sign(codes) * books
        price = np.asarray(prices)[np.asarray(classes), books, np.abs(codes)]
        return ((np.asarray(x) - named) ** 2 + price).sum()

    found = cost(np.asarray(codes))
    random = np.random.default_rng(0)
    for _ in range(2000):
        moved = np.asarray(codes) + random.integers(-1, 2, 8) * (random.random(8) < 0.4)
        assert found <= cost(moved) + 1e-4


def test_levels_are_magnitudes_up_to_15_and_then_four_of_each_parity_per_octave():
    magnitudes = np.arange(2**14)
    got = np.asarray(levels(jnp.asarray(magnitudes)))
    np.testing.assert_array_equal(got[:16], magnitudes[:16])
    np.testing.assert_array_equal(got % 2, magnitudes % 2)
    for octave in range(4, 14):
        found, sizes = np.unique(got[2**octave : 2 ** (octave + 1)], return_counts=True)
        np.testing.assert_array_equal(found, 16 + 8 * (octave - 4) + np.arange(8))
        np.testing.assert_array_equal(np.log2(sizes), bits_below_level()[found])


def test_the_largest_magnitudes_have_a_level():
    assert int(levels(jnp.int32(2**24 - 1))) == LEVELS - 1
