import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import payload_structure, wire
from fedjax_compression.sparsifiers import chunked_top_k, sparse_loco
from fedjax_compression.wrappers import error_feedback

BY_HAND = jnp.zeros(20).at[jnp.array([0, 2, 9, 12])].set(jnp.array([8.0, -2.0, -1.0, 4.0]))


def decoded(c, x):
    return c.decode(jax.jit(c.encode)(jr.key(0), x, c.init(x))[0], x)


@pytest.mark.slow
def test_a_payload_worked_by_hand():
    # two entries of each chunk of eight are sent; the one of the tail is zero and is not sent.
    # The geometric means are 4 and 2, an octave apart; magnitudes are half and twice the mean
    c = sparse_loco(fraction=0.25, chunk=8)
    payload, _ = c.encode(jr.key(0), BY_HAND, ())
    assert payload.support.codes.tolist() == [0, 2, 7, 3, 8]
    assert payload.support.runs.tolist() == payload.values.runs.tolist() == [4, 1]
    assert payload.values.codes.tolist() == [0b10, 0b01, 0b01, 0b10, 0]
    assert payload.below.codes.tolist() == [0, 4, 0]
    np.testing.assert_allclose(payload.magnitudes, [2.0, 8.0], rtol=1e-5)
    np.testing.assert_allclose(c.decode(payload, BY_HAND), BY_HAND, rtol=1e-5)


@pytest.mark.slow
def test_a_message_has_the_size_worked_by_hand():
    payload, _ = sparse_loco(fraction=0.25, chunk=8).encode(jr.key(0), BY_HAND, ())
    # length, then runs and tables, then a word and its length, then lowest bits
    support = 4 + (1 + 9) + (1 + 5) + 5 + 1
    values = 4 + (1 + 7) + (1 + 3) + 5 + 1
    below = 4 + (1 + 7) + 5 + 1
    assert len(wire.dumps(payload)) == 12 + support + values + below + 8


@pytest.mark.slow
def test_the_entries_are_those_of_chunked_top_k_with_their_signs():
    x = jr.normal(jr.key(0), (10_000,))
    np.testing.assert_array_equal(
        jnp.sign(decoded(sparse_loco(), x)), jnp.sign(decoded(chunked_top_k(fraction=1 / 64), x))
    )


@pytest.mark.slow
@pytest.mark.parametrize("scales", [1.0, "apart"])
def test_the_error_is_the_docstrings_and_other_magnitudes_err_more(scales):
    x = jr.t(jr.key(0), 3.0, (8, 4096))
    x = (x * (1.0 if scales == 1.0 else 8.0 ** jnp.arange(8.0)[:, None])).reshape(-1)
    c = sparse_loco()
    payload, _ = c.encode(jr.key(0), x, ())
    out = c.decode(payload, x)
    error = ((out - x) ** 2).sum()
    assert error == pytest.approx(float(x @ x - out @ out), rel=1e-4)
    for change in ([0.9, 1.0], [1.1, 1.0], [1.0, 0.95], [1.0, 1.05]):
        other = c.decode(payload._replace(magnitudes=payload.magnitudes * jnp.array(change)), x)
        assert ((other - x) ** 2).sum() > error


@pytest.mark.slow
def test_the_two_bit_error_on_a_gaussian_is_half_a_percent_of_the_sent_energy():
    x = jr.normal(jr.key(0), (2**18,))
    sent, out = decoded(chunked_top_k(fraction=1 / 64), x), decoded(sparse_loco(), x)
    assert ((out - sent) ** 2).sum() / (sent @ sent) < 0.005


@pytest.mark.slow
def test_a_chunk_a_thousand_times_smaller_errs_no_more():
    x = jr.normal(jr.key(0), (2, 4096)) * jnp.array([[1.0], [1e-3]])
    sent, out = (decoded(c, x) for c in (chunked_top_k(fraction=1 / 64), sparse_loco()))
    lost = ((out - sent) ** 2).sum(axis=1) / (sent**2).sum(axis=1)
    assert (lost < 0.02).all()


def test_an_entry_costs_nine_and_a_quarter_bits():
    x = jr.normal(jr.key(0), (2**20,))
    payload, _ = jax.jit(sparse_loco().encode)(jr.key(0), x, ())
    bits = 8 * (len(wire.dumps(payload)) - wire.HEADER_BYTES) / (2**20 / 64)
    assert 9.16 < bits < 9.4  # log2 C(4096, 64) / 64 is 7.36, and 1.8 for the value


@pytest.mark.slow
def test_entries_that_are_zero_are_not_sent():
    x = jnp.zeros(4096).at[jnp.array([7, 4000])].set(jnp.array([2.0, -1.0]))
    c = sparse_loco()
    payload, _ = c.encode(jr.key(0), x, ())
    assert payload.support.runs.tolist() == [2, 62]
    np.testing.assert_allclose(c.decode(payload, x), x, rtol=1e-5)


def test_the_residual_stays_bounded():
    c, x = error_feedback(sparse_loco(chunk=256), decay=0.95), jr.normal(jr.key(0), (1000,))
    encode, state = jax.jit(c.encode), c.init(x)
    for seed in range(100):
        _, state = encode(jr.key(seed), x, state)
    assert jnp.abs(state[0]).max() < 20 * jnp.abs(x).max()


@pytest.mark.slow
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_nan_or_infinity_among_zeros_is_reported(value):
    assert not jnp.isfinite(decoded(sparse_loco(), jnp.zeros(9000).at[5000].set(value))).all()


def test_hostile_codes_decode_without_an_error():
    c, x = sparse_loco(chunk=64), jnp.ones(200)
    like = payload_structure(c, x)
    hostile = jax.tree.map(lambda leaf: np.full(leaf.shape, 255, leaf.dtype), like)
    hostile = hostile._replace(
        support=hostile.support._replace(codes=np.full(like.support.codes.shape, 2**31, np.uint32))
    )
    assert c.decode(hostile, x).shape == x.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.0}, "sparse_loco: fraction: expected .* above 0 and at most 1, got 0.0"),
        ({"chunk": 0}, "sparse_loco: chunk: expected an integer at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_loco(**arguments)
