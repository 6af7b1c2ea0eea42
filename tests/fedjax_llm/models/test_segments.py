"""Packing, padding, windows, the cache and bfloat16 in decoders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_llm.models import Decoder, DecoderConfig, config_from, from_params
from fedjax_llm.models.config import check
from fedjax_llm.models.masks import positions_in_segments
from tests.helpers.families import FAMILIES, forward, params, tokens


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_packed_texts_have_the_logits_of_separate_rows(name):
    ids = tokens((3, 8))
    apart = forward(name, ids).reshape(1, 24, -1)
    packed = forward(name, ids.reshape(1, 24), segments=jnp.repeat(jnp.array([[4, 1, 9]]), 8, 1))
    np.testing.assert_allclose(packed, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3", "gemma2"])
def test_padding_changes_nothing_and_is_finite(name):
    ids = tokens((2, 8))
    plain = forward(name, ids)
    padded = jnp.pad(ids, ((0, 0), (3, 2)))
    segments = jnp.pad(jnp.ones_like(ids), ((0, 0), (3, 2)))
    logits = forward(name, padded, segments=segments)
    assert jnp.isfinite(logits).all()
    np.testing.assert_allclose(logits[:, 3:-2], plain, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_row_of_padding_alone_has_finite_logits_and_gradients():
    config = config_from(FAMILIES["llama2"])
    ids, segments = jnp.zeros((1, 8), jnp.int32), jnp.zeros((1, 8), jnp.int32)
    run = jax.jit(jax.grad(lambda p: (from_params(config, p)(ids, segments=segments) ** 2).sum()))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(run(params(config))))


def test_positions_count_within_each_segment():
    segments = jnp.array([[0, 0, 1, 1, 1, 2], [3, 3, 3, 3, 0, 0]])
    positions = positions_in_segments(segments)
    np.testing.assert_array_equal(positions, [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]])


@pytest.mark.slow
def test_given_positions_are_used():
    ids = tokens((1, 8))
    shifted = forward("llama3", ids, positions=jnp.arange(5, 13)[None])
    np.testing.assert_allclose(shifted, forward("llama3", ids), rtol=1e-3, atol=1e-4)
    spread = forward("llama3", ids, positions=jnp.arange(8)[None] * 3)
    assert jnp.abs(spread - shifted).max() > 0.01


def test_tokens_before_the_window_are_not_attended():
    config = dataclasses.replace(config_from(FAMILIES["mistral_window"]), num_hidden_layers=1)
    one = jax.tree.map(lambda x: x, params(config_from(FAMILIES["mistral_window"])))
    one["blocks"] = jax.tree.map(lambda leaf: leaf[:1], one["blocks"])
    ids = jnp.asarray(tokens((1, 12)))
    run = jax.jit(lambda params, ids: from_params(config, params)(ids))
    other = ids.at[0, 3].set((ids[0, 3] + 1) % 48)
    moved = jnp.abs(run(one, ids) - run(one, other)).max(axis=-1)[0]
    np.testing.assert_array_equal(moved > 1e-4, [False] * 3 + [True] * 5 + [False] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_reading_in_pieces_with_a_cache_equals_one_call(name):
    config = config_from(FAMILIES[name])
    ids = jnp.asarray(tokens((2, 12)))
    segments = jnp.ones((2, 12), jnp.int32).at[1, :3].set(0)
    extend = jax.jit(lambda p, *args, **kw: from_params(config, p).extend(*args, **kw))
    cache = from_params(config, params(config)).cache(batch=2, slots=14)
    pieces = []
    for start, end in ((0, 5), (5, 6), (6, 12)):
        piece = slice(start, end)
        logits, cache = extend(params(config), cache, ids[:, piece], segments=segments[:, piece])
        pieces.append(logits)
    whole = forward(name, ids, segments=segments)
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), whole, rtol=1e-4, atol=1e-4)
    assert cache.used == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "qwen3"])
def test_bfloat16_is_near_float32_and_logits_stay_float32(name):
    exact, rough = (
        forward(name, tokens((2, 12)), dtype=dtype) for dtype in ("float32", "bfloat16")
    )
    assert rough.dtype == jnp.float32
    assert 0 < jnp.std(rough - exact) < 0.03 * jnp.std(exact)


def test_more_tokens_than_learned_positions_are_refused():
    config = DecoderConfig(position_embeddings="learned", max_position_embeddings=8)
    model = nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"tokens: expected at most 8 .*, got 9"):
        model(jnp.zeros((1, 9), jnp.int32))
    with pytest.raises(ValueError, match=r"slots: expected at most 8 .*, got 9"):
        model.cache(batch=1, slots=9)


def test_parameters_of_other_shapes_are_refused():
    config = config_from(FAMILIES["llama2"])
    with pytest.raises(ValueError, match="filled: params: expected shapes"):
        from_params(dataclasses.replace(config, intermediate_size=41), params(config))


def _config(**change):
    """A config with values of wrong types, as without run-time type checks."""
    config = DecoderConfig()
    for name, value in change.items():
        object.__setattr__(config, name, value)
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "batch"}, "norm: expected rms, rms_plus_one or layer, got 'batch'"),
        ({"dtype": "float16"}, "dtype: expected float32 or bfloat16, got 'float16'"),
        ({"head_dim": 7}, "head_dim: expected an even number, got 7"),
        ({"head_dim": 0}, "head_dim: expected an integer at least 1 and at most 2147483647, got 0"),
        (
            {"final_logit_softcapping": 0.0},
            "final_logit_softcapping: expected a number above 0, got 0.0",
        ),
        ({"layer_types": ("full_attention",)}, "layer_types: expected 2 entries, got"),
        (
            {"layer_types": ("sliding_attention",) * 2},
            "sliding_window: expected a number, as layer_types has sliding layers, got None",
        ),
        (
            {"layer_types": ("linear_attention",) * 2},
            r"layer_types: expected entries out of full_attention, .* got \['linear_attention'\]",
        ),
    ],
)
def test_invalid_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check(_config(**change))
