import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression.entropy.trellis_bits import histogram, message_bits
from fedjax_compression.entropy.trellis_path import PATH_BYTES
from fedjax_compression.ops.union_trellis import codebooks
from fedjax_compression.wire.leaves import TrellisSymbols
from fedjax_compression.wire.trellis_symbols import dump_trellis


@functools.partial(jax.jit, static_argnums=1)
def bits(codes, lengths):
    classes = jnp.repeat(
        jnp.arange(len(lengths)), jnp.array(lengths), total_repeat_length=codes.size
    )
    books = codebooks(codes, states=8)
    return message_bits(histogram(codes, books, classes, len(lengths)))


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.2, 1.5, 40.0, 3000.0])
@pytest.mark.parametrize("entries", [1, 60, 3000, 30_000])
def test_the_section_length_is_predicted_to_a_few_bytes(entries, deviation):
    random = np.random.default_rng(0)
    codes = jnp.asarray(np.rint(random.standard_t(3, entries) * deviation), jnp.int32)
    lengths = entries // 3, 0, entries - entries // 3
    section = dump_trellis(TrellisSymbols(codes, np.array(lengths), np.uint8(3)))
    unpredicted = len(section) - float(bits(codes, lengths)) / 8
    # the section has neither its own length nor step and shifts
    assert 0 < unpredicted <= PATH_BYTES - 4 - 20
