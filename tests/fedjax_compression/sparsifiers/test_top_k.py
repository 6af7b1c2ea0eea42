import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.sparsifiers import top_k
from fedjax_compression.sparsifiers.top_k import largest


def test_the_largest_of_the_whole_update_are_sent():
    c = top_k(fraction=0.4)
    x = {"a": jnp.array([1.0, -5.0, 0.5]), "b": jnp.array([4.0, -0.1])}
    out = c.decode(c.encode(jr.key(0), x, ())[0], x)
    assert out["a"].tolist() == [0.0, -5.0, 0.0]
    assert out["b"].tolist() == [4.0, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 500, 999, 1000])
def test_positions_are_those_of_a_sort(k):
    x = jr.normal(jr.key(k), (1000,))
    expected = np.sort(np.argsort(-np.abs(np.asarray(x)), kind="stable")[:k])
    np.testing.assert_array_equal(largest(x, k), expected)


def test_the_first_of_equal_entries_are_chosen():
    x = jnp.array([1.0, 2.0, -1.0, 1.0, 0.0])
    assert largest(x, 3).tolist() == [0, 1, 2]
    assert largest(jnp.zeros(4), 2).tolist() == [0, 1]


def test_a_message_has_the_size_worked_by_hand():
    # 100 gaps of 9 and 10 share a symbol and have 3 bits more each (38 bytes). Length of the
    # section (4), run (1), table of 5 symbols of which one is present (1 + 2 + 2), a run of none
    # (1), no words (1). 400 of values.
    x = jnp.zeros(1000).at[9::10].set(2.0)
    payload, _ = top_k(fraction=0.1).encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + 50 + 400


def test_values_travel_in_the_dtype_of_the_update():
    x = jnp.zeros(1000, jnp.bfloat16).at[9::10].set(2.0)
    payload, _ = top_k(fraction=0.1).encode(jr.key(0), x, ())
    assert len(wire.dumps(payload)) == 12 + 50 + 200


@pytest.mark.slow
def test_the_error_is_within_the_contraction():
    x = jr.normal(jr.key(0), (500,))
    for fraction in (0.01, 0.1, 0.9):
        c = top_k(fraction=fraction)
        payload, _ = jax.jit(c.encode)(jr.key(0), x, ())
        left = x - c.decode(payload, x)
        assert (left @ left) / (x @ x) <= 1 - fraction


@pytest.mark.slow
def test_it_works_inside_vmap():
    x = jr.normal(jr.key(0), (3, 64))
    rows = jax.vmap(lambda row: largest(row, 5))(x)
    for row, expected in zip(rows, [largest(row, 5) for row in x], strict=True):
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_fractions_out_of_range_are_refused(fraction):
    message = r"top_k: fraction: expected a (finite )?number above 0 and at most 1, got"
    with pytest.raises(ValueError, match=message):
        top_k(fraction=fraction)
