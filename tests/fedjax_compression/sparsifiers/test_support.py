import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import Symbols, wire
from fedjax_compression.sparsifiers.support import decode_support, encode_support
from hypothesis import given, settings
from hypothesis import strategies as st


def uniform(entries, count):
    members = np.random.default_rng(0).choice(entries, count, replace=False)
    return jnp.asarray(np.sort(members), jnp.uint32)


def bits_per_index(indices, below):
    return (
        8 * (wire.nbytes(encode_support(indices, below=below)) - wire.HEADER_BYTES) / len(indices)
    )


def bound(entries, count):
    """log2 C(entries, count) / count."""
    ways = math.lgamma(entries + 1) - math.lgamma(count + 1) - math.lgamma(entries - count + 1)
    return ways / math.log(2) / count


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 2**32 - 1)))
def test_any_sorted_set_round_trips(members):
    indices = jnp.asarray(np.array(sorted(members), np.uint32))
    sent = encode_support(indices, below=2**32 - 1)
    got = wire.loads(wire.dumps(sent), sent)
    np.testing.assert_array_equal(decode_support(got), indices)


def test_gaps_and_runs_worked_by_hand():
    sent = encode_support(jnp.array([3, 4, 13, 16, 16], jnp.uint32), below=16)
    assert sent.codes.tolist() == [3, 1, 9, 3, 0]
    assert sent.runs.tolist() == [3, 2]


def test_one_percent_costs_at_most_8_15_bits_an_index():
    entries = 2**20
    assert bits_per_index(uniform(entries, entries // 100), entries) <= 8.15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "above"), [(0.001, 0.32), (0.01, 0.055), (0.05, 0.02), (0.1, 0.015), (0.3, 0.01)]
)
def test_a_uniform_support_costs_little_more_than_its_entropy(share, above):
    entries, count = 2**20, round(share * 2**20)
    bits = bits_per_index(uniform(entries, count), entries)
    assert bound(entries, count) <= bits <= bound(entries, count) + above


def test_unused_places_cost_a_few_bytes_in_all():
    entries = 2**20
    used = uniform(entries, 10_000)
    padded = jnp.pad(used, (0, 90_000), constant_values=entries)
    alone, with_padding = (
        wire.nbytes(encode_support(indices, below=entries)) for indices in (used, padded)
    )
    # the longer vector also has a symbol for each half of an octave instead of each octave
    assert with_padding <= alone + 30


def test_positions_beyond_2_to_the_31_are_right_under_jit_and_vmap():
    rows = jnp.array([[5, 2**31 + 1, 2**32 - 1], [0, 1, 2**31]], jnp.uint32)
    sent = jax.jit(jax.vmap(lambda row: encode_support(row, below=2**32 - 1)))(rows)
    assert sent.runs.tolist() == [[2, 1], [3, 0]]
    np.testing.assert_array_equal(jax.vmap(decode_support)(sent), rows)


def test_hostile_gaps_wrap_and_positions_out_of_range_are_dropped():
    codes = np.array([2, 2**32 - 1, 2**32 - 1, 2**31, 7], np.uint32)
    hostile = Symbols(codes, np.array([0, 5], np.int32))
    indices = decode_support(wire.loads(wire.dumps(hostile), hostile))
    assert indices.tolist() == [2, 1, 0, 2**31, 2**31 + 7]
    x = jnp.zeros(3).at[indices].set(jnp.arange(1.0, 6.0), mode="drop")
    assert x.tolist() == [3.0, 2.0, 1.0]
