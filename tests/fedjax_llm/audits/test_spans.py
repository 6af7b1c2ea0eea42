"""Candidates in the span of a gradient: a toy in float64, and decoders of this library."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from flax import nnx

from fedjax_llm import DecoderConfig, language_model, lora
from fedjax_llm.audits import first_layer_inputs, recovery, revealed_tokens, span_distances
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batch
from fedjax_llm.models import Decoder

VOCAB, WIDTH, COUNT = 1000, 64, 20


def toy(count=COUNT):
    """Embeddings, the tokens of a client, and the gradient of a linear layer, in float64."""
    random = np.random.default_rng(0)
    table = random.normal(size=(VOCAB, WIDTH))
    tokens = random.choice(VOCAB, count, replace=False)
    return table, tokens, table[tokens].T @ random.normal(size=(count, WIDTH))


def test_the_toy_separates_tokens_from_others():
    table, tokens, gradient = toy()
    span = span_distances(table, gradient, rank_tolerance=1e-12)
    others = np.delete(span.distances, tokens)
    assert span.rank == COUNT
    assert span.distances[tokens].max() <= 3e-15
    assert others.min() >= 0.5
    assert abs(others.mean() - (1 - COUNT / WIDTH) ** 0.5) < 0.01


def test_distances_are_those_of_least_squares():
    table, _, gradient = toy()
    best, *_ = np.linalg.lstsq(gradient, table[:30].T)
    outside = np.linalg.norm(table[:30].T - gradient @ best, axis=0)
    expected = outside / np.linalg.norm(table[:30], axis=1)
    found = span_distances(table[:30], gradient, rank_tolerance=1e-12).distances
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_noise_moves_members_by_its_size():
    table, tokens, gradient = toy()
    noise = np.random.default_rng(1).normal(size=gradient.shape)
    for relative in (1e-6, 1e-4, 1e-2):
        noised = gradient + relative * np.linalg.norm(gradient) / np.linalg.norm(noise) * noise
        span = span_distances(table, noised, rank_tolerance=1e-12, max_rank=COUNT)
        assert 0.2 * relative < span.distances[tokens].mean() < 5 * relative
        assert np.delete(span.distances, tokens).min() > 0.5


def test_a_low_rank_message_still_tells():
    """Rank 8 of 20: no token lies in the span, but tokens are nearer than others."""
    table, tokens, gradient = toy()
    span = span_distances(table, gradient, max_rank=8)
    others = np.delete(span.distances, tokens)
    assert span.rank == 8
    assert span.distances[tokens].min() > 0.1
    assert span.distances[tokens].mean() < others.mean() - 0.1
    assert abs(others.mean() - (1 - 8 / WIDTH) ** 0.5) < 0.01


def test_as_many_tokens_as_outputs_fill_the_span():
    """20 tokens, 16 outputs: each member is near the span and none lies in it."""
    table, tokens, gradient = toy()
    span = span_distances(table, gradient[:, :16], rank_tolerance=1e-12)
    assert span.rank == 16
    assert span.distances[tokens].min() > 0.01
    assert span.distances[tokens].mean() < np.delete(span.distances, tokens).mean() - 0.2


def test_edges():
    empty = span_distances([[0.0, 0.0], [3.0, 0.0]], np.zeros((2, 5)))
    assert (empty.rank, empty.distances.tolist()) == (0, [1.0, 1.0])
    wide = span_distances([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0]], [[2.0], [0.0]])
    np.testing.assert_allclose(wide.distances, [1.0, 0.0, 0.5**0.5], atol=1e-15)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"gradient": np.ones((3, 2))}, "gradient: expected numbers [2, outputs], as candidates"),
        (
            {"gradient": np.eye(2)},
            "gradient: expected a rank below its 2 inputs, got 2, whose span",
        ),
        ({"candidates": [1.0, 2.0]}, "candidates: expected numbers [candidates, inputs], got"),
        ({"rank_tolerance": 0.0}, "rank_tolerance: expected a number above 0 and below 1, got 0.0"),
        ({"max_rank": 0}, "max_rank: expected an integer at least 1, got 0"),
    ],
)
def test_errors(given, text):
    arguments = {"candidates": np.ones((3, 2)), "gradient": np.ones((2, 2))} | given
    with pytest.raises(ValueError, match=r"^span_distances: ") as error:
        span_distances(**arguments)
    assert text in str(error.value)


CONFIG = DecoderConfig(
    vocab_size=128,
    hidden_size=48,
    intermediate_size=48,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
ROWS = np.random.default_rng(3).choice(60, (2, 11), replace=False)
BATCH = Batch(ROWS[None, :, :-1], ROWS[None, :, 1:], np.ones((1, 2, 10), bool))
QUERIED = np.unique(ROWS[:, 1:-1])  # the first query of a row attends to itself alone
ABSENT = np.setdiff1d(np.arange(CONFIG.vocab_size), ROWS)


def steps(task, count):
    """Parameters after each of some SGD steps on one batch, the initial ones first."""
    train = jax.jit(local_steps(task.loss, optax.sgd(0.1)))
    params = [task.params]
    for _ in range(count):
        params.append(train(params[-1], task.frozen, BATCH)[0])
    return params


def separated(candidates, gradient, *, near=1e-4):
    span = span_distances(candidates, gradient)
    assert span.rank == QUERIED.size
    assert span.distances[QUERIED].max() < near
    assert span.distances[ABSENT].min() > 0.2
    return True


@pytest.mark.slow
@pytest.mark.parametrize("learned", [False, True])
def test_one_step_of_a_decoder_tells_its_tokens(learned):
    positions = "learned" if learned else "rotary"
    config = dataclasses.replace(CONFIG, position_embeddings=positions, max_position_embeddings=16)
    task = language_model(config, key=jr.key(0))
    start, end = steps(task, 1)
    update = jax.tree.map(jnp.subtract, end, start)
    assert recovery(revealed_tokens(update["embedding"]), ROWS[:, :-1])[:2] == (1.0, 1.0)
    kernel = update["blocks"]["attention"]["q_proj"]["kernel"][0]
    if not learned:
        assert separated(first_layer_inputs(config, start), kernel)
        return
    for place in (1, 5):  # candidates of one position find that position's tokens
        span = span_distances(first_layer_inputs(config, start, position=place), kernel)
        there = ROWS[:, place]
        assert span.distances[there].max() < 1e-4
        assert np.delete(span.distances, there).min() > 0.2


@pytest.mark.slow
def test_lora_tells_by_b_in_its_first_step_and_by_a_afterwards():
    task = language_model(CONFIG, key=jr.key(0), adapter=lora(rank=32, targets="q_proj"))
    base = language_model(CONFIG, key=jr.key(0)).params
    first, second, third = (
        params["blocks"]["attention"]["q_proj"]["adapter"] for params in steps(task, 2)
    )
    candidates = first_layer_inputs(CONFIG, base)
    np.testing.assert_array_equal(first["a"], second["a"])  # B is zero
    assert separated(candidates @ np.asarray(first["a"][0], float), second["b"][0] - first["b"][0])
    # this update is a thousandth of A, whose rounding it carries
    assert separated(candidates, third["a"][0] - second["a"][0], near=0.03)


@pytest.mark.slow
def test_candidates_are_normed_embeddings():
    """RMS norm of the scaled embedding, written out; each token has its own row."""
    config = DecoderConfig(
        vocab_size=20,
        hidden_size=8,
        num_attention_heads=2,
        scale_embeddings=True,
        norm="rms_plus_one",
    )
    params = nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(0)), nnx.Param))
    params["blocks"]["input_norm"]["scale"] = jnp.stack([jnp.arange(8.0), jnp.full(8, 9.0)])
    x = np.asarray(params["embedding"], float) * 8**0.5
    expected = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * (1 + np.arange(8))
    np.testing.assert_allclose(first_layer_inputs(config, params), expected, rtol=1e-5, atol=1e-6)


def test_a_position_must_exist():
    config = DecoderConfig(hidden_size=8, num_attention_heads=2, position_embeddings="learned")
    with pytest.raises(ValueError, match="first_layer_inputs: position: expected an integer at le"):
        first_layer_inputs(config, {}, position=2048)
