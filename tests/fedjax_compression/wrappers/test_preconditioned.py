import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import (
    diana,
    eden,
    ef21,
    error_feedback,
    identity,
    payload_structure,
    power_sgd,
    preconditioned,
    wire,
)

KNOWN = {
    "wide": jr.normal(jr.key(0), (12, 2)) @ jr.normal(jr.key(1), (2, 40)),
    "tall": jr.normal(jr.key(2), (3, 30, 10)) * jnp.arange(1.0, 11),
    "bias": jnp.linspace(-1, 1, 17),
}
UPDATE = jax.tree.map(lambda k: k + jr.normal(jr.key(3), k.shape), KNOWN)


def power_of(moment, exponent):
    values, vectors = np.linalg.eigh(moment)
    return (vectors * values**exponent) @ vectors.T


def scaled(x, known):
    """L^-p x R^-p with the docstring's moments, in float64."""
    x, known = np.asarray(x, np.float64), np.asarray(known, np.float64)
    known = known / np.sqrt(np.mean(known**2))
    rows, columns = known.shape
    left = known @ known.T / columns + 0.3 * np.eye(rows)
    right = known.T @ known / rows + 0.3 * np.eye(columns)
    return power_of(left, -0.175) @ x @ power_of(right, -0.175)


def test_what_is_coded_is_scaled_by_powers_of_the_second_moments():
    c = preconditioned(identity()).given({"w": KNOWN["wide"]})
    payload, _ = c.encode(jr.key(0), {"w": UPDATE["wide"]}, ())
    expected = scaled(UPDATE["wide"], KNOWN["wide"])
    np.testing.assert_allclose(payload["w"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_each_matrix_of_a_stack_has_its_own_scale_and_a_tall_one_is_its_transpose():
    c = preconditioned(identity()).given({"w": KNOWN["tall"]})
    payload, _ = c.encode(jr.key(0), {"w": UPDATE["tall"]}, ())
    for each, x, known in zip(payload["w"], UPDATE["tall"], KNOWN["tall"], strict=True):
        np.testing.assert_allclose(each, scaled(x, known), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.0, 1e-30, 1.0, 1e30])
def test_scaling_is_undone_whatever_is_known(factor):
    c = preconditioned(identity()).given(jax.tree.map(lambda k: factor * k, KNOWN))
    payload, _ = c.encode(jr.key(0), UPDATE, ())
    decoded = c.decode(payload, UPDATE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), decoded, UPDATE)


def test_known_updates_near_the_largest_float32_scale_as_small_ones_do():
    codecs = [
        preconditioned(identity()).given({"w": KNOWN["wide"] * 2.0**power}) for power in (0, 123)
    ]
    assert 2.0**126 < float(jnp.abs(KNOWN["wide"] * 2.0**123).max()) < jnp.inf
    small, large = (c.encode(jr.key(0), {"w": UPDATE["wide"]}, ())[0]["w"] for c in codecs)
    np.testing.assert_allclose(large, small, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_a_wrong_known_update_costs_error_and_no_bias():
    wrong = jax.tree.map(lambda k: jr.normal(jr.key(9), k.shape) ** 3, KNOWN)
    c, draws = preconditioned(eden(bits=1)).given(wrong), 3000
    flat = jax.flatten_util.ravel_pytree
    decoded = jax.lax.map(
        lambda key: flat(c.decode(c.encode(key, UPDATE, ())[0], UPDATE))[0],
        jr.split(jr.key(1), draws),
        batch_size=100,
    )
    bias = decoded.mean(axis=0) - flat(UPDATE)[0]
    assert (jnp.abs(bias) < 5 * decoded.std(axis=0) / draws**0.5).all()


@pytest.mark.slow
def test_without_a_known_update_it_is_the_inner_codec():
    inner, outer = eden(bits=2), preconditioned(eden(bits=2))
    messages = [
        wire.dumps(c.encode(jr.key(0), UPDATE, ())[0])
        for c in (inner, outer, preconditioned(eden(bits=2)).given(KNOWN))
    ]
    assert messages[0] == messages[1] != messages[2]
    assert len(messages[2]) == len(messages[0])
    given = payload_structure(outer.given(KNOWN), UPDATE)
    assert given == payload_structure(inner, UPDATE)


def test_a_nan_that_is_known_is_reported():
    known = KNOWN | {"wide": KNOWN["wide"].at[0, 0].set(jnp.nan)}
    c = preconditioned(eden(bits=2)).given(known)
    decoded = c.decode(c.encode(jr.key(0), UPDATE, ())[0], UPDATE)
    assert not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(decoded))


@pytest.mark.long
def test_a_known_direction_of_most_power_costs_less():
    x = jax.tree.map(lambda k: k + 0.1 * jr.normal(jr.key(5), k.shape), KNOWN)

    def error(c):
        decoded = jax.vmap(lambda key: c.decode(c.encode(key, x, ())[0], x)["wide"])(
            jr.split(jr.key(0), 50)
        )
        return float(((decoded - x["wide"]) ** 2).sum())

    plain = preconditioned(eden(bits=1))
    assert error(plain.given(KNOWN)) < 0.7 * error(plain)


@pytest.mark.parametrize(
    "inner", [preconditioned(identity()), error_feedback(eden(bits=1)), power_sgd(rank=2)]
)
def test_codecs_with_state_or_knowledge_of_their_own_are_refused(inner):
    with pytest.raises(ValueError, match="preconditioned: compressor: expected a codec"):
        preconditioned(inner)


@pytest.mark.parametrize("wrapped", [lambda c: diana(c, rate=0.3), ef21])
def test_a_shift_around_it_passes_on_what_is_known(wrapped):
    """The message is the scaled codec's, of the difference to the shift, and both ends agree."""
    inner = preconditioned(eden(bits=2))
    whole, alone = wrapped(inner), inner.given(KNOWN)
    c = whole.given(KNOWN)
    state, memory = whole.init(UPDATE), whole.receiver(UPDATE)
    for number in range(3):
        key = jr.key(number)
        payload, after = c.encode(key, UPDATE, state)
        difference = jax.tree.map(jnp.subtract, UPDATE, state.known)
        expected, _ = alone.encode(key, difference, ())
        assert wire.dumps(payload) == wire.dumps(expected)
        received, memory = c.receive(c.decode(payload, UPDATE), memory, 1.0)
        state = after
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            memory,
            state.known,
        )
    assert payload_structure(whole, UPDATE) == payload_structure(inner, UPDATE)
    assert jax.tree.map(jnp.shape, received) == jax.tree.map(jnp.shape, UPDATE)


def test_it_goes_outermost():
    with pytest.raises(ValueError, match=r"error_feedback: compressor: .*given another"):
        error_feedback(preconditioned(eden(bits=1)))
