"""Attention against the definition, computed in float64, and its gradients."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx

from fedjax_llm.models import Decoder, DecoderConfig, from_params
from fedjax_llm.models.layers import attend

BATCH, SEQ, HEADS, SHARED, HEAD = 2, 7, 6, 2, 4


def arrays(dtype="float32", size=1.0):
    keys = jr.split(jr.key(0), 4)
    heads = (HEADS, SHARED, SHARED, HEADS)
    return [
        (size * jr.normal(key, (BATCH, SEQ, n, HEAD))).astype(dtype)
        for key, n in zip(keys, heads, strict=True)
    ]


def segments():
    """Two texts in a row, and padding that attends to nothing."""
    numbers = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0]])
    same = (numbers[:, :, None] == numbers[:, None, :]) & (numbers[:, :, None] > 0)
    return (same & np.tril(np.ones((SEQ, SEQ), bool)))[:, None]


def reference(q, k, v, mask, scale, softcap):
    """Outputs by the definition, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, HEADS // SHARED, axis=2) for x in (k, v))
    scores = scale * np.einsum("bthd,bshd->bhts", q, k)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhts,bshd->bthd", weights, v)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_derivatives_are_those_of_the_definition(masked, softcap):
    q, k, v, seen = arrays()
    mask = jnp.asarray(segments()) if masked else None
    causal = segments() if masked else np.tril(np.ones((1, 1, SEQ, SEQ), bool))
    counted = np.asarray(causal.any(-1)[:, 0, :, None, None])  # a row that sees nothing is free

    def ours(q, k, v):
        return attend(q, k, v, mask=mask, scale=0.7, softcap=softcap)

    def exact(q, k, v):
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(reference(q, k, v, causal, 0.7, softcap)) * counted

    np.testing.assert_allclose(ours(q, k, v) * counted, exact(q, k, v), atol=2e-6)
    grads = jax.grad(lambda *x: (ours(*x) * counted * seen).sum(), argnums=(0, 1, 2))(q, k, v)
    inputs = [np.asarray(x, np.float64) for x in (q, k, v)]
    for index, gradient in enumerate(grads):
        along = np.random.default_rng(index).normal(size=inputs[index].shape)
        above, below = ([*inputs] for _ in range(2))
        above[index], below[index] = inputs[index] + 1e-6 * along, inputs[index] - 1e-6 * along
        slope = ((exact(*above) - exact(*below)) * np.asarray(seen)).sum() / 2e-6
        np.testing.assert_allclose((np.asarray(gradient) * along).sum(), slope, rtol=2e-5)


def test_forward_derivatives_are_those_of_the_reverse_mode():
    q, k, v, seen = arrays()
    tangents = tuple(jnp.cos(x) for x in (q, k, v))

    def summed(q, k, v):
        return (attend(q, k, v, mask=None, scale=0.5) * seen).sum()

    _, forward = jax.jvp(summed, (q, k, v), tangents)
    gradients = jax.grad(summed, argnums=(0, 1, 2))(q, k, v)
    backward = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    np.testing.assert_allclose(forward, backward, rtol=1e-5)


def test_large_scores_and_rows_that_see_nothing_stay_finite():
    q, k, v, seen = arrays(size=1e4)

    def summed(q, k, v):
        return (attend(q, k, v, mask=jnp.asarray(segments()), scale=1.0) * seen).sum()

    value, gradients = jax.value_and_grad(summed, argnums=(0, 1, 2))(q, k, v)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_a_nan_is_not_hidden():
    q, k, v, _ = arrays()
    out = attend(q, k.at[0, 0, 0, 0].set(jnp.nan), v, mask=None, scale=1.0)
    assert np.isnan(out[0, :, : HEADS // SHARED]).all()
    assert np.isfinite(out[1]).all()


def test_bfloat16_errs_by_its_own_rounding():
    q, k, v, _ = arrays("bfloat16")
    out = attend(q, k, v, mask=None, scale=0.5)
    exact = reference(q, k, v, np.tril(np.ones((1, 1, SEQ, SEQ), bool)), 0.5, None)
    assert out.dtype == jnp.bfloat16
    # weights and result are each rounded to eight bits
    assert np.abs(np.asarray(out, np.float64) - exact).max() <= 2 * 2**-8 * np.abs(exact).max()


def test_the_backward_pass_computes_scores_again_and_no_other_product():
    config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
    params = nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(0)), nnx.Param))
    tokens = jnp.zeros((1, 5), jnp.int32)
    program = str(jax.make_jaxpr(jax.grad(lambda p: from_params(config, p)(tokens).sum()))(params))
    # of the two batched products: forward, four of their gradients, and scores again; of seven
    # products with weights and the head: forward and two of their gradients
    assert program.count("dot_general[") == 2 + 4 + 1 + 3 * 8
