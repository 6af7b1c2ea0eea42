"""Packing on the host is that of the codecs, and that of the definition."""

import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression.ops import bits as in_program

from fedjax_llm.secure_aggregation.packing import pack, unpack


@pytest.mark.parametrize("bits", [1, 2, 7, 8, 13, 16, 22, 25, 31, 32])
def test_bits_lie_one_after_the_other(bits):
    rng = np.random.default_rng(bits)
    integers = rng.integers(0, 2**bits, 13, dtype=np.uint64).astype(np.uint32)
    integers[[0, -1]] = 0, 2**bits - 1
    whole = sum(int(x) << (bits * i) for i, x in enumerate(integers))
    packed = pack(integers, bits=bits)
    assert packed.tobytes() == whole.to_bytes(-(-13 * bits // 8), "little")
    np.testing.assert_array_equal(unpack(packed, 13, bits=bits), integers)


@pytest.mark.parametrize("bits", [20, 32])
def test_it_is_that_of_the_codecs(bits):
    integers = np.arange(2**bits - 9, 2**bits, dtype=np.uint64).astype(np.uint32)
    there = in_program.pack(jnp.asarray(integers), bits=bits)
    np.testing.assert_array_equal(there, pack(integers, bits=bits))
    np.testing.assert_array_equal(in_program.unpack(there, 9, bits=bits), integers)
