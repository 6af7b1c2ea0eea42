import jax
import numpy as np
import pytest
from fedjax_compression.entropy.section_bits import symbols_bits
from fedjax_compression.wire.leaves import Symbols
from fedjax_compression.wire.symbols import dump_symbols


@jax.jit
def bits(codes, runs):
    return symbols_bits(codes, runs, count=3)


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [0.02, 0.4, 5.0, 3000.0])
@pytest.mark.parametrize("entries", [60, 3000, 30_000])
def test_the_section_length_is_predicted_to_a_few_bytes(entries, deviation):
    random = np.random.default_rng(0)
    codes = np.rint(random.standard_t(3, entries) * deviation).astype(np.int32)
    lengths = np.array([entries // 3, 0, entries - entries // 3], np.int32)
    section = dump_symbols(Symbols(codes, lengths))
    runs = np.repeat(np.arange(3), lengths)
    unpredicted = len(section) - float(bits(codes, runs)) / 8
    assert 0 < unpredicted <= 12  # the length of the coded stream, and its last words
