import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression.ops.bits import pack, packed_size, unpack


@pytest.mark.long
@pytest.mark.parametrize("entries", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("bits", range(1, 25))
def test_unpack_inverts_pack(bits, entries):
    codes = np.random.default_rng(bits).integers(0, 2**bits, entries, dtype=np.uint32)
    packed = pack(jnp.asarray(codes), bits=bits)
    assert packed.shape == (packed_size(entries, bits=bits),) == (-(-entries * bits // 8),)
    np.testing.assert_array_equal(unpack(packed, entries, bits=bits), codes)


def test_lowest_bit_comes_first():
    assert pack(jnp.array([1, 0, 1, 1], jnp.uint32), bits=1).tolist() == [0b1101]
    assert pack(jnp.array([5, 3], jnp.uint32), bits=4).tolist() == [0x35]
    assert pack(jnp.array([7, 0, 4], jnp.uint32), bits=3).tolist() == [0b00000111, 0b1]
