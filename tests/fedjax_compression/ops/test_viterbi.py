import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression.ops import viterbi
from fedjax_compression.ops.viterbi import trellis_decode, trellis_encode

LADDER = np.array([-3, -1, 1, 3], np.float32)


def reference(codes, table, bits):
    """Decode by the definition of the trellis, state by state."""
    state, values = 0, []
    for code in codes:
        state = ((state << bits) | int(code)) % len(table)
        values.append(table[state])
    return np.array(values, np.float32)


def random_table(memory):
    return np.random.default_rng(0).standard_normal(2**memory).astype(np.float32)


def squared_error(x, table, bits):
    q = trellis_decode(trellis_encode(x, table, bits=bits), table, bits=bits)
    return float(((x - q) ** 2).sum())


def test_a_path_worked_by_hand():
    # from history 0: states 0b01, 0b11, 0b10, 0b00
    codes = jnp.array([1, 1, 0, 0], jnp.uint32)
    x = jnp.array([-1.0, 3.0, 1.0, -3.0])
    np.testing.assert_array_equal(trellis_decode(codes, LADDER, bits=1), x)
    np.testing.assert_array_equal(trellis_encode(x, LADDER, bits=1), codes)


@pytest.mark.parametrize(("bits", "memory"), [(1, 3), (1, 8), (2, 5), (3, 8), (4, 5)])
def test_the_sliding_window_decoder_matches_the_state_machine(bits, memory):
    codes = jr.randint(jr.key(0), (300,), 0, 2**bits).astype(jnp.uint32)
    table = random_table(memory)
    np.testing.assert_array_equal(
        trellis_decode(codes, table, bits=bits), reference(np.asarray(codes), table, bits)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "memory", "entries"), [(1, 3, 10), (2, 5, 5), (3, 4, 3)])
def test_no_path_is_closer(bits, memory, entries):
    table = random_table(memory)
    paths = [reference(c, table, bits) for c in itertools.product(range(2**bits), repeat=entries)]
    for seed in range(5):
        x = jr.normal(jr.key(seed), (entries,))
        least = min(((np.asarray(x) - path) ** 2).sum() for path in paths)
        assert squared_error(x, table, bits) == pytest.approx(least, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("entries", [5000, 1025])
def test_joins_between_searches_add_little_error(entries, monkeypatch):
    x, table = jr.normal(jr.key(0), (entries,)), random_table(6)
    joined = squared_error(x, table, 1)
    monkeypatch.setattr(viterbi, "STEPS", entries)
    whole = squared_error(x, table, 1)
    assert whole * (1 - 1e-5) <= joined <= whole * 1.002


@pytest.mark.slow
def test_vmap_over_clients_equals_a_loop():
    clients, table = jr.normal(jr.key(0), (3, 2100)), random_table(6)

    def encode(x):
        return trellis_encode(x, table, bits=2)

    together = jax.jit(jax.vmap(jax.vmap(encode)))(clients[None])[0]
    for row, x in zip(together, clients, strict=True):
        # fewer than 1 % of entries may differ, where two paths are equal but for rounding
        assert (np.asarray(row) != np.asarray(encode(x))).mean() < 0.01
