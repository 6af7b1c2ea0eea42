import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, stochastic_quantize, wire
from fedjax_compression.sparsifiers import chunked_top_k, top_k
from fedjax_compression.wrappers import chain


def decoded(c, x, key=0):
    return c.decode(c.encode(jr.key(key), x, c.init(x))[0], x)


def test_the_largest_of_each_chunk_and_of_the_tail_are_sent():
    x = {"a": jnp.array([1.0, -5.0, 0.5]), "b": jnp.array([4.0, 9.0, -8.0, 7.0, 0.25, 0.5])}
    out = decoded(chunked_top_k(fraction=0.5, chunk=4), x)
    assert out["a"].tolist() == [0.0, -5.0, 0.0]
    # chunks of 4, 4 and 1: the first is [1, -5, 0.5, 4]
    assert out["b"].tolist() == [4.0, 9.0, -8.0, 0.0, 0.0, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("entries", [1, 63, 64, 65, 1000, 1024])
def test_it_matches_a_sort_of_each_chunk(entries):
    x = np.array(jr.normal(jr.key(entries), (entries,)))
    expected = np.zeros_like(x)
    for start in range(0, entries, 64):
        part = x[start : start + 64]
        k = max(1, round(0.1 * len(part)))
        kept = start + np.argsort(-np.abs(part), kind="stable")[:k]
        expected[kept] = x[kept]
    c = chunked_top_k(fraction=0.1, chunk=64)
    np.testing.assert_array_equal(decoded(c, jnp.asarray(x)), expected)


def test_the_first_of_equal_entries_are_sent():
    x = jnp.array([1.0, 2.0, -1.0, 1.0] + 4 * [3.0])
    out = decoded(chunked_top_k(fraction=0.5, chunk=4), x)
    assert out.tolist() == [1.0, 2.0, 0.0, 0.0, 3.0, 3.0, 0.0, 0.0]


@pytest.mark.slow
def test_one_chunk_for_the_whole_update_is_top_k():
    x = jr.normal(jr.key(0), (500,))
    np.testing.assert_array_equal(
        decoded(chunked_top_k(fraction=0.1, chunk=500), x), decoded(top_k(fraction=0.1), x)
    )


def test_a_nan_is_sent_beside_an_infinity():
    x = jnp.zeros(100).at[jnp.array([3, 50])].set(jnp.array([jnp.inf, jnp.nan]))
    out = decoded(chunked_top_k(fraction=0.02, chunk=100), x)
    np.testing.assert_array_equal(out, x)


def test_a_message_has_the_size_worked_by_hand():
    # chunks of 400, 400 and 200 keep 40, 40 and 20: as top_k's 100 of 1000
    x = jnp.zeros(1000).at[9::10].set(2.0)
    payload, _ = chunked_top_k(fraction=0.1, chunk=400).encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + 50 + 400


def test_positions_cost_about_their_entropy():
    x = jr.normal(jr.key(0), (2**20,))
    payload, _ = jax.jit(chunked_top_k(fraction=0.01).encode)(jr.key(0), x, ())
    bits = 8 * wire.nbytes(payload.support) / payload.values.size
    assert 7.98 < bits < 8.15  # the bound log2 C(4096, 41) / 41 is 7.98; log2 C(n, k) / k is 8.08


@pytest.mark.slow
def test_values_sent_in_two_bits_err_by_at_most_a_step():
    x = jr.normal(jr.key(0), (8192,))
    sparse = decoded(chunked_top_k(fraction=1 / 64), x)
    out = decoded(chain(chunked_top_k(fraction=1 / 64), stochastic_quantize(bits=2)), x)
    sent = np.flatnonzero(sparse)
    step = (sparse[sent].max() - sparse[sent].min()) / 3
    assert jnp.abs(out - sparse)[sent].max() <= step * (1 + 1e-5)
    assert not np.delete(out, sent).any()


@pytest.mark.parametrize("fraction", ["0.0", "-0.1", "1.1"])
def test_fractions_out_of_range_are_refused(fraction):
    message = "chunked_top_k: fraction: expected a number above 0 and at most 1, got"
    with pytest.raises(ValueError, match=message):
        codec(f"chunked_top_k(fraction={fraction})")


@pytest.mark.parametrize("chunk", [0, -4096])
def test_chunks_out_of_range_are_refused(chunk):
    with pytest.raises(ValueError, match=f"chunk: expected an integer at least 1, got {chunk}"):
        chunked_top_k(fraction=0.1, chunk=chunk)
