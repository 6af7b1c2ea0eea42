import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fedjax_llm.models import config_from, from_params, generate
from fedjax_llm.models.generate import _generate, top_p_only
from tests.helpers.families import FAMILIES, params, tokens


def decoder(name="llama3"):
    config = config_from(FAMILIES[name])
    return from_params(config, params(config))


def one_by_one(model, prompt, new):
    """The most likely continuation, computed from all tokens at every step."""
    ids = np.zeros((1, len(prompt) + new), np.int32)
    ids[0, : len(prompt)] = prompt
    run = jax.jit(model.__call__)
    for place in range(len(prompt), ids.shape[1]):
        ids[0, place] = run(jnp.asarray(ids))[0, place - 1].argmax()
    return ids[0, len(prompt) :]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_prompts_of_different_lengths_are_continued_as_if_alone(name):
    model, prompts, lengths = decoder(name), tokens((3, 9)), [9, 1, 4]
    got = generate(model, jnp.asarray(prompts), lengths=jnp.array(lengths), max_new_tokens=12)
    for row, prompt, length in zip(got.tokens, prompts, lengths, strict=True):
        np.testing.assert_array_equal(row, one_by_one(model, prompt[:length], 12))
    np.testing.assert_array_equal(got.lengths, [12] * 3)


@pytest.mark.slow
def test_a_row_ends_after_its_first_eos():
    model, prompts = decoder(), jnp.asarray(tokens((3, 9)))
    free = np.asarray(generate(model, prompts, max_new_tokens=12).tokens)
    eos = [int(free[0, 4]), int(free[1, 7])]
    got = generate(model, prompts, max_new_tokens=12, eos=eos, pad=47)
    for row, whole, length in zip(got.tokens, free, got.lengths, strict=True):
        hits = np.flatnonzero(np.isin(whole, eos))
        assert length == (hits[0] + 1 if len(hits) else 12)
        np.testing.assert_array_equal(row[:length], whole[:length])
        assert (row[length:] == 47).all()


@pytest.mark.slow
def test_drawn_tokens_follow_the_logits():
    model, prompt = decoder(), jnp.asarray(tokens((1, 5)))
    many = jnp.tile(prompt, (4000, 1))
    got = generate(model, many, max_new_tokens=1, temperature=2.0, key=jr.key(0)).tokens[:, 0]
    chances = jax.nn.softmax(model(prompt)[0, -1] / 2.0)
    shares = jnp.bincount(got, length=48) / 4000
    assert (jnp.abs(shares - chances) < 5 * jnp.sqrt(chances / 4000) + 1e-3).all()
    wrong = jax.nn.softmax(model(prompt)[0, -1])
    assert not (jnp.abs(shares - wrong) < 5 * jnp.sqrt(wrong / 4000) + 1e-3).all()


@pytest.mark.slow
def test_a_row_does_not_depend_on_later_rows():
    model, prompts = decoder(), jnp.asarray(tokens((3, 5)))
    draw = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 0.9}
    one = generate(model, prompts[:1], key=jr.key(0), **draw)
    all_three = generate(model, prompts, key=jr.key(0), **draw)
    np.testing.assert_array_equal(one.tokens[0], all_three.tokens[0])
    other = generate(model, prompts, key=jr.key(1), **draw)
    assert (other.tokens != all_three.tokens).any()


def test_top_p_keeps_the_fewest_tokens_whose_probabilities_reach_it():
    logits = jnp.log(jnp.array([[0.1, 0.5, 0.15, 0.25], [0.97, 0.01, 0.01, 0.01]]))
    kept = jnp.isfinite(top_p_only(logits, 0.7))
    np.testing.assert_array_equal(kept, [[False, True, False, True], [True, False, False, False]])
    assert jnp.isfinite(top_p_only(logits, 1.0)).all()


@pytest.mark.slow
def test_a_second_call_compiles_nothing():
    model, prompts = decoder(), jnp.asarray(tokens((2, 7)))
    generate(model, prompts, max_new_tokens=3, temperature=0.5, key=jr.key(0))
    before = _generate._cache_size()
    generate(decoder(), prompts, max_new_tokens=3, temperature=0.7, key=jr.key(1))
    assert _generate._cache_size() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": jnp.array([0])}, r"lengths: expected 1 to 4 tokens each, got \[0\]"),
        ({"lengths": jnp.array([5])}, r"lengths: expected 1 to 4 tokens each, got \[5\]"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected an integer at least 1, got 0"),
        ({"temperature": -1.0}, "temperature: expected a number at least 0, got -1.0"),
        ({"temperature": 1.0}, "key: expected a key, as temperature is above 0, got None"),
        ({"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        generate(decoder(), jnp.zeros((1, 4), jnp.int32), **{"max_new_tokens": 2, **change})
