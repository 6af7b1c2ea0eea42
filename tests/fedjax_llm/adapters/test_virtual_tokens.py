"""Prompts and prefixes that hold the vectors of real tokens act as these tokens before the text.

Windows are of five tokens, so that the first of them slide out of the text's sight.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_llm.adapters import Added, adapt, prompt_tuning
from fedjax_llm.adapters.prefix_tuning import Prefix
from fedjax_llm.models import config_from, from_params
from tests.helpers.families import FAMILIES, ONCE, params, tokens

AHEAD, TEXT = tokens((1, 3), "ahead"), tokens((1, 9), "text")
SCALES = {"gemma2": 32**0.5, "gemma3": 32**0.5, "mistral_window": 1.0}
each_family = pytest.mark.parametrize("name", SCALES)
each_kind = pytest.mark.parametrize("kind", ["prompt", "prefix"])


def plain(name):
    config = config_from(FAMILIES[name])
    return from_params(config, params(config))


def logits(model, ids, segments=None):
    graph, state = nnx.split(model)
    run = jax.jit(
        lambda state, ids, segments: nnx.merge(graph, state)(ids, segments=segments),
        compiler_options=ONCE,
    )
    return np.asarray(run(state, jnp.asarray(ids), segments))


@functools.cache
def expected(name, start, stop):
    """Logits of a part of the text, right after the tokens ahead."""
    return logits(plain(name), np.concatenate([AHEAD, TEXT[:, start:stop]], axis=1))[:, 3:]


@functools.cache
def adapted(name, kind):
    """A model whose prompt or prefix is what its blocks would make of the tokens ahead."""
    model = plain(name)
    if kind == "prompt":
        model.prompt = Added(SCALES[name] * model.embedding[...][AHEAD[0]])
    else:
        _, cache = model.extend(model.cache(batch=1, slots=3), jnp.asarray(AHEAD))
        model.blocks.attention.prefix = Prefix(cache.keys[:, 0], cache.values[:, 0])
    return model


@pytest.mark.slow
@each_family
@each_kind
def test_the_text_after_them_is_read_as_after_the_tokens(name, kind):
    got = logits(adapted(name, kind), TEXT)
    np.testing.assert_allclose(got, expected(name, 0, 9), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@each_family
@each_kind
def test_each_text_of_a_packed_row_is_right_after_them(name, kind):
    segments = jnp.array([[1] * 4 + [2] * 5])
    got = logits(adapted(name, kind), TEXT, segments)
    np.testing.assert_allclose(got[:, :4], expected(name, 0, 4), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got[:, 4:], expected(name, 4, 9), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@each_kind
def test_a_cache_extends_them(kind):
    model = adapted("gemma3", kind)
    extend = nnx.jit(lambda model, cache, ids: model.extend(cache, ids))
    cache, found = model.cache(batch=1, slots=9), []
    for start in (0, 3, 6):
        some, cache = extend(model, cache, jnp.asarray(TEXT[:, start : start + 3]))
        found.append(some)
    got = np.concatenate(found, axis=1)
    np.testing.assert_allclose(got, expected("gemma3", 0, 9), rtol=1e-3, atol=1e-4)


def test_a_prompt_starts_as_vectors_that_the_blocks_of_gemma_know():
    model = plain("gemma2")
    table = model.embedding[...] * 32**0.5
    start = adapt(prompt_tuning(tokens=4), model, key=jax.random.key(0)).params["prompt"]
    distances = jnp.abs(start[:, None] - table[None]).max(axis=-1)
    assert float(distances.min(axis=1).max()) < 1e-6
