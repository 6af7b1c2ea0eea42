"""Texts by matching gradients: a tiny decoder, plain references, and the limits of the attack."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fedjax_llm import DecoderConfig, language_model, lora
from fedjax_llm.audits import match_gradients
from fedjax_llm.audits.matching import _logits, _order
from fedjax_llm.data import Batch

CONFIG = DecoderConfig(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=32,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
TEXTS = np.random.default_rng(5).choice(48, (2, 1, 5), replace=False)
LIMITS = {"length": 5, "steps": 450, "learning_rate": 0.03, "restarts": 3, "permutations": 40}


@functools.cache
def task_of(adapter=None, **changes):
    adapter = adapter and lora(rank=8, targets=adapter)
    return language_model(dataclasses.replace(CONFIG, **changes), key=jr.key(0), adapter=adapter)


def gradient_of(task, text, params=None):
    batch = Batch(text[:, :-1], text[:, 1:], np.ones(text[:, 1:].shape, bool))
    params = task.params if params is None else params
    return jax.jit(jax.grad(task.loss))(params, task.frozen, batch)


def matched(task, gradient, params=None, **limits):
    model = task.model(task.params if params is None else params, task.frozen)
    return match_gradients(model, gradient, key=jr.key(1), **LIMITS | limits)


@pytest.mark.long
def test_a_text_is_rebuilt_from_its_gradient_and_not_from_another():
    """Chance is a place in 48; the distance tells which of both is right."""
    task = task_of()
    own, other = (matched(task, gradient_of(task, text)) for text in TEXTS)
    assert (own.tokens == TEXTS[0]).mean() >= 0.8
    assert (other.tokens == TEXTS[0]).mean() <= 0.2
    assert own.distance < 0.05
    again = matched(task, gradient_of(task, TEXTS[0]))
    np.testing.assert_array_equal(own.tokens, again.tokens)  # of one key
    noise = jax.tree.map(lambda leaf: jr.normal(jr.key(7), leaf.shape), task.params)
    assert matched(task, noise).distance > 0.5


@pytest.mark.long
def test_candidates_are_the_only_tokens():
    task = task_of()
    found = matched(task, gradient_of(task, TEXTS[0]), candidates=TEXTS.ravel())
    assert np.isin(found.tokens, TEXTS).all()
    assert (found.tokens == TEXTS[0]).all()


@pytest.mark.long
def test_distances_are_those_of_the_tokens_gradient():
    """Written out in NumPy, for both distances, whatever the tokens are."""
    task = task_of(adapter="q_proj,v_proj")
    params = jax.tree.map(lambda leaf: leaf + jr.normal(jr.key(2), leaf.shape) / 8, task.params)
    target = gradient_of(task, TEXTS[0], params)
    short = {"steps": 2, "every": 1, "permutations": 3, "restarts": 2}
    for distance in ("cosine", "squared"):
        found = matched(task, target, params, distance=distance, l1=0.3, **short)
        own = gradient_of(task, found.tokens, params)
        total, cosines = 0.0, []
        both = zip(*(jax.tree.leaves(tree) for tree in (own, target)), strict=True)
        for a, b in ((np.asarray(a, float), np.asarray(b, float)) for a, b in both):
            total += ((a - b) ** 2).sum() + 0.3 * np.abs(a - b).sum()
            cosines += [
                (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
                for x, y in zip(a, b, strict=True)  # all are stacks of layers
            ]
        expected = 1 - np.mean(cosines) if distance == "cosine" else total
        assert found.distance == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position_embeddings": "learned", "scale_embeddings": True},
        {"sliding_window": 2, "tie_word_embeddings": True},
    ],
)
def test_rows_of_the_table_give_the_logits_of_their_tokens(changes):
    task = task_of(**changes)
    model = task.model(task.params, task.frozen)
    tokens = jnp.asarray(TEXTS[0])
    rows = task.params["embedding"][tokens]
    np.testing.assert_allclose(_logits(model, rows), model(tokens), rtol=1e-5, atol=1e-5)


def test_permutations_are_those_of_lamp():
    """Each is one of its kind, and every kind occurs: two swapped, one or a run moved, a turn."""
    size, places = 5, list(range(5))
    swaps, moves, runs = set(), set(), set()
    for a in places:
        for b in places:
            swap = list(places)
            swap[a], swap[b] = swap[b], swap[a]
            swaps.add(tuple(swap))
    for first in range(size):
        for after in range(first, size + 1):
            rest = places[:first] + places[after:]
            new = {
                tuple(rest[:to] + places[first:after] + rest[to:]) for to in range(len(rest) + 1)
            }
            runs |= new
            moves |= new if after == first + 1 else set()
    turns = {tuple(places[cut:] + places[:cut]) for cut in range(size + 1)}
    drawn = jax.jit(
        jax.vmap(
            lambda number, key: _order(number, key, size),
        )
    )(jnp.arange(801), jr.split(jr.key(0), 801))
    orders = [tuple(order) for order in np.asarray(drawn).tolist()]
    assert orders[0] == tuple(places)
    for kind, allowed in enumerate((swaps, moves, runs, turns)):
        assert set(orders[4 + kind :: 4]) == allowed, kind


@pytest.mark.long
def test_a_heavy_prior_orders_the_tokens():
    """With a weight that drowns the distance, the order is about the public model's likeliest."""
    task = task_of()
    public = language_model(CONFIG, key=jr.key(3))
    model = public.model(public.params, public.frozen)
    gradient = gradient_of(task, TEXTS[0])
    held = matched(task, gradient, prior=model, prior_weight=1e3, restarts=1, steps=225)
    orders = jnp.asarray(list(itertools.permutations(held.tokens[0].tolist())))
    logs = jax.nn.log_softmax(model(orders[:, :-1]))
    nats = -jnp.take_along_axis(logs, orders[:, 1:, None], axis=-1).sum(axis=(1, 2))
    assert (nats < nats[0]).sum() <= 3  # of 120; the first is what was found


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"length": 1}, "length: expected an integer at least 2, got 1"),
        ({"steps": 10}, "steps: expected an integer at least 75, got 10"),
        ({"distance": "l2"}, "distance: expected "),
        ({"decay": 1.5}, "decay: expected a number above 0 and at most 1, got 1.5"),
        ({"candidates": []}, "candidates: expected token ids below 48, at least one, got []"),
        ({"gradient": {"other": np.ones(3)}}, "gradient: expected leaves of the model's param"),
        ({"gradient": {"embedding": np.ones((48, 32))}}, "gradient: expected leaves besides the"),
        ({"gradient": {"norm": {"scale": np.full(32, np.nan)}}}, "gradient: expected finite"),
    ],
)
def test_errors(given, text):
    task = task_of()
    arguments = {"gradient": {"norm": {"scale": np.ones(32)}}, "length": 4} | given
    with pytest.raises((ValueError, TypeError), match=r"match_gradients") as error:
        match_gradients(task.model(task.params, task.frozen), key=jr.key(0), **arguments)
    if "distance" not in given:  # of another type, which may be told first
        assert text in str(error.value)
