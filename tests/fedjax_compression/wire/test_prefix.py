import struct
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import Prefix, WireError, wire

from tests.fuzz_wire import resigned

LIKE = Prefix(jax.ShapeDtypeStruct((5,), jnp.float32), jax.ShapeDtypeStruct((), jnp.uint32))


def prefix(length):
    values = np.where(np.arange(5) < length, np.arange(1.0, 6.0), 0).astype(np.float32)
    return Prefix(values, np.uint32(length))


@pytest.mark.parametrize("length", range(6))
def test_a_prefix_takes_the_bytes_of_its_entries_and_comes_back(length):
    data = wire.dumps({"half": prefix(length)})
    assert len(data) == wire.nbytes({"half": prefix(length)}) == 12 + 4 + 4 * length
    (back,) = wire.loads(data, {"half": LIKE}).values()
    assert back.values.tolist() == prefix(length).values.tolist()
    assert int(back.length) == length


def test_a_prefix_that_is_longer_than_its_vector_is_refused():
    with pytest.raises(ValueError, match="Prefix: length: expected an integer from 0 to 5, got 6"):
        wire.dumps(prefix(6))
    longer = Prefix(np.ones(6, np.float32), np.uint32(6))
    forged = bytearray(wire.dumps(longer))
    short = wire.dumps(prefix(5))
    forged[4:8] = short[4:8]  # the fingerprint of five entries
    with pytest.raises(WireError, match="checksum"):
        wire.loads(bytes(forged), LIKE)


def test_a_length_that_its_dtype_cannot_represent_is_refused():
    values = jax.ShapeDtypeStruct((300,), jnp.float16)
    small, wide = (
        Prefix(values, jax.ShapeDtypeStruct((), dtype)) for dtype in (jnp.int8, jnp.uint32)
    )
    data = bytearray(wire.dumps(Prefix(np.ones(300, np.float16), np.uint32(128))))
    data[4:8] = wire.fingerprint(small).to_bytes(4, "little")
    with pytest.raises(WireError, match="expected at most 127 entries of 2 bytes, got 256 bytes"):
        wire.loads(resigned(bytes(data)), small)
    data[4:8] = wire.fingerprint(wide).to_bytes(4, "little")
    assert int(wire.loads(resigned(bytes(data)), wide).length) == 128


@pytest.mark.parametrize("body", [b"\0" * 3, b"\0" * 24])
def test_sections_of_partial_or_too_many_entries_are_refused(body):
    start = wire.dumps(prefix(0))[:8]
    section = struct.pack("<I", len(body)) + body
    data = start + struct.pack("<I", zlib.crc32(section, zlib.crc32(start))) + section
    with pytest.raises(WireError, match="expected at most 5 entries of 4 bytes, got"):
        wire.loads(data, LIKE)
