import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops.word_trellis import word_count, word_table, words_decode, words_encode


def words_of(bits, table):
    """The bit-shift trellis: the state is the last bits, and starts from zeros."""
    state, out = 0, []
    for bit in bits:
        state = (2 * state + bit) % len(table)
        out.append(table[state])
    return np.concatenate(out)


@pytest.mark.parametrize(("length", "memory"), [(3, 2), (5, 3), (4, 6)])
def test_the_path_found_is_the_best_of_all(length, memory):
    table, words = word_table(length, memory=memory), 9
    x = np.asarray(jr.normal(jr.key(length), (words * length,)))
    bits = np.asarray(words_encode(jnp.asarray(x), table))
    best = max(x @ words_of(each, table) for each in itertools.product((0, 1), repeat=words))
    assert x @ words_of(bits, table) == pytest.approx(best, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("entries", [40, 4096, 10_007])
def test_bits_decode_to_their_words(entries):
    table = word_table(7, memory=5)
    count = word_count(entries, 7)
    bits = np.asarray(jr.bits(jr.key(0), (count,), jnp.uint8) % 2)
    searches = max(1, round(entries / 4096))
    rows = [words_of(row, table) for row in bits.reshape(searches, -1)]
    decoded = words_decode(jnp.asarray(bits), entries, table)
    np.testing.assert_array_equal(decoded, np.concatenate(rows)[:entries])
    assert entries / 7 <= count < entries / 7 + 2 * searches


def test_words_have_one_norm_and_are_spread_over_all_directions():
    table = word_table(10, memory=8).astype(np.float64)
    np.testing.assert_allclose(np.sum(table**2, axis=1), 10, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.eigvalsh(table.T @ table / 256), 1, atol=0.5)
    assert np.abs(table.mean(axis=0)).max() < 4 / 16


@pytest.mark.slow
def test_a_vmapped_search_equals_one_alone():
    table, x = word_table(4, memory=4), jr.normal(jr.key(0), (3, 9000))
    together = jax.vmap(lambda each: words_encode(each, table))(x)
    alone = jnp.stack([words_encode(each, table) for each in x])
    np.testing.assert_array_equal(together, alone)
