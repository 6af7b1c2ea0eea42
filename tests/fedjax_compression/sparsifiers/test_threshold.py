import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.sparsifiers import threshold
from fedjax_compression.sparsifiers.support import decode_support


def decoded(c, x):
    return c.decode(c.encode(jr.key(0), x, ())[0], x)


@pytest.mark.slow
def test_entries_that_reach_the_value_are_exact_and_the_others_zero():
    x = {"a": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([4.0, -1.75, 0.0])}
    out = decoded(threshold(value=1.75, capacity=1.0), x)
    assert out["a"].tolist() == [0.0, -2.0, 0.0]
    assert out["b"].tolist() == [4.0, -1.75, 0.0]


def test_the_smallest_are_dropped_beyond_the_capacity():
    x = jnp.array([3.0, -2.0, 5.0, 4.0, 0.5])
    assert decoded(threshold(value=1.0, capacity=0.4), x).tolist() == [0.0, 0.0, 5.0, 4.0, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("value", [0.01, 1.0, 2.5, 100.0])
def test_it_equals_a_mask_if_all_entries_fit(value):
    x = jr.normal(jr.key(0), (1000,))
    out = jax.jit(lambda x: decoded(threshold(value=value, capacity=1.0), x))(x)
    np.testing.assert_array_equal(out, np.where(np.abs(x) >= np.float32(value), x, 0))


def test_unused_places_come_last_with_the_position_past_the_end():
    x = jnp.zeros(100).at[jnp.array([99, 7])].set(2.0)
    payload, _ = threshold(value=1.0, capacity=0.05).encode(jr.key(0), x, ())
    positions = decode_support(payload.support)
    assert positions.tolist() == [7, 99, 100, 100, 100]
    assert payload.values.tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]


def test_a_message_has_the_size_worked_by_hand():
    # all 100 places used: 50 bytes of support, as top_k's. None used: length of the section (4),
    # run of none (1), run of 100 (1), a table of 11 symbols of which two are present (6), a word
    # (1 + 4) and the 9 lowest bits of the one gap that is not zero (2)
    for scale, support in ((2.0, 50), (0.0, 19)):
        x = jnp.zeros(1000).at[9::10].set(scale)
        payload, _ = threshold(value=1.0, capacity=0.1).encode(jr.key(0), x, ())
        assert len(wire.dumps(payload)) == 12 + support + 400


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_values_out_of_range_are_refused(value):
    with pytest.raises(
        ValueError, match=r"threshold: value: expected a (finite )?number above 0, got"
    ):
        threshold(value=value, capacity=0.1)


@pytest.mark.parametrize("capacity", [0.0, 1.1])
def test_capacities_out_of_range_are_refused(capacity):
    message = "threshold: capacity: expected a number above 0 and at most 1, got"
    with pytest.raises(ValueError, match=message):
        threshold(value=1.0, capacity=capacity)
