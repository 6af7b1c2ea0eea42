import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.elias_fano import EliasFano, decode_sorted, encode_sorted
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 299), min_size=1), st.integers(0, 40))
def test_any_sorted_set_comes_back(members, slack):
    indices = jnp.array(sorted(members), jnp.uint32)
    below = max(members) + 1 + slack
    coded = encode_sorted(indices, below=below)
    np.testing.assert_array_equal(
        decode_sorted(coded, count=len(members), below=below), sorted(members)
    )


def test_a_support_costs_at_most_two_bits_above_log2():
    entries, count = 2**17, 1311
    coded = jax.eval_shape(lambda: encode_sorted(jnp.zeros(count, jnp.uint32), below=entries))
    bits = 8 * (wire.nbytes(coded) - wire.HEADER_BYTES) / count
    assert bits == pytest.approx(8.56, abs=0.01)
    assert bits <= 2 + np.log2(entries / count)


def test_a_layout_worked_by_hand():
    # 3, 4, 13 below 16: two low bits each (3, 0, 1), then unary 0, 1, 3 -> places 0, 2, 5
    coded = encode_sorted(jnp.array([3, 4, 13], jnp.uint32), below=16)
    assert coded.low.tolist() == [0b01_00_11]
    assert coded.high.tolist() == [0b100101]


def test_hostile_bytes_decode_to_something():
    coded = EliasFano(jnp.full(1, 255, jnp.uint8), jnp.zeros(1, jnp.uint8))
    assert decode_sorted(coded, count=3, below=16).shape == (3,)
