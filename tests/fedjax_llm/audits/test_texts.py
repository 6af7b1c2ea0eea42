"""Texts from a gradient: of decoders of this library, through codecs, against plain references."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import DecoderConfig, language_model, lora
from fedjax_llm.audits import recover_texts
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batch
from fedjax_llm.models import from_params

CONFIG = DecoderConfig(
    vocab_size=128,
    hidden_size=48,
    intermediate_size=48,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)
TEXTS = np.random.default_rng(3).choice(60, (2, 9))  # three tokens occur twice or more
assert np.unique(TEXTS).size < TEXTS.size
OTHERS = np.random.default_rng(4).choice(60, (2, 9))


def batch(texts):
    return Batch(texts[:, :-1], texts[:, 1:], np.ones(texts[:, 1:].shape, bool))


@functools.cache
def task_of(*, adapter=None, **changes):
    adapter = adapter and lora(rank=32, targets=adapter)
    return language_model(dataclasses.replace(CONFIG, **changes), key=jr.key(0), adapter=adapter)


def gradient_of(task, texts, params=None):
    params = task.params if params is None else params
    return jax.jit(jax.grad(task.loss))(params, task.frozen, batch(texts))


def found(task, gradient, params=None, **limits):
    model = task.model(task.params if params is None else params, task.frozen)
    return recover_texts(model, gradient, **{"length": 12} | limits)


def tokens(texts):
    return sorted(np.asarray(getattr(text, "tokens", text)).tolist() for text in texts)


TRUE = tokens(TEXTS[:, :-1])


@pytest.mark.slow
def test_the_update_of_one_sgd_step_tells_both_texts():
    task = task_of()
    train = jax.jit(local_steps(task.loss, optax.sgd(0.1)))
    one_step = jax.tree.map(lambda leaf: leaf[None], batch(TEXTS))
    update = jax.tree.map(jnp.subtract, train(task.params, task.frozen, one_step)[0], task.params)
    assert tokens(found(task, update)) == TRUE


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"position_embeddings": "learned", "max_position_embeddings": 12},
        {"fused_qkv": True, "norm": "layer", "mlp": "plain", "position_embeddings": "learned"},
        {"sliding_window": 4, "scale_embeddings": True, "norm": "rms_plus_one"},
    ],
    ids=["learned", "gpt2", "sliding"],
)
def test_other_decoders_tell_both_texts(changes):
    task = task_of(**changes)
    assert tokens(found(task, gradient_of(task, TEXTS))) == TRUE


@pytest.mark.slow
def test_distances_are_those_of_least_squares():
    """The first block as a model of one layer, the RMS norm and the span written out."""
    task = task_of()
    gradient = gradient_of(task, TEXTS)
    text = next(t for t in found(task, gradient, near=0.9, texts=2, most_prefixes=8))
    params = dict(task.params, blocks=jax.tree.map(lambda leaf: leaf[:1], task.params["blocks"]))
    lower = from_params(dataclasses.replace(CONFIG, num_hidden_layers=1), params).lower
    hidden = np.asarray(lower(jnp.asarray(text.tokens)[None])[0], float)
    inputs = hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True) + 1e-5)
    attention = gradient["blocks"]["attention"]
    spans = [np.asarray(attention[name]["kernel"][1], float) for name in ("q_proj", "v_proj")]
    columns = np.concatenate([span / np.linalg.norm(span, ord=2) for span in spans], axis=1)
    best, *_ = np.linalg.lstsq(columns, inputs.T, rcond=1e-5)
    outside = np.linalg.norm(inputs.T - columns @ best, axis=0) / np.linalg.norm(inputs, axis=1)
    assert text.distance == pytest.approx(outside.mean(), abs=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["q_proj", "q_proj,v_proj"])
def test_lora_tells_both_texts_once_b_is_not_zero(adapter):
    task = task_of(adapter=adapter)
    assert found(task, gradient_of(task, TEXTS)) == []  # A has no gradient while B is zero
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jr.normal(jr.key(1), leaf.shape) / 8 if path[-1].key == "b" else leaf,
        task.params,
    )
    gradient = gradient_of(task, TEXTS, params)
    assert tokens(found(task, gradient, params)) == TRUE
    # of a first token among the given ones alone
    wanted = tokens(t for t in TRUE if t[0] == TEXTS[0, 0])
    assert tokens(found(task, gradient, params, starts=[TEXTS[0, 0], 99])) == wanted


@pytest.mark.slow
def test_texts_that_begin_with_repetitions():
    """A repeated first token reads the same at each place; what follows it tells how many."""
    task = task_of()
    texts = np.array([[5, 5, 5, 7, 5, 9], [8, 8, 8, 8, 8, 2]])
    first = [5, 5, 5, 7, 5]
    result = found(task, gradient_of(task, texts))
    assert tokens(result) == [first, [8]]
    # with the true length, the others of the beam begin with repetitions too
    beam = {"near": 1.0, "max_rank": 10, "texts": 2, "most_prefixes": 24}
    assert found(task, gradient_of(task, texts), length=5, **beam)[0].tokens.tolist() == first


@pytest.mark.slow
def test_queries_alone_do_not_tell_a_text_that_begins_with_a_repetition():
    """Where all values are equal, no query has a gradient in either layer."""
    task = task_of()
    texts = np.array([[5, 5, 7, 9, 11, 2], [8, 30, 12, 31, 17, 6]])
    gradient = gradient_of(task, texts)
    queries = {"q_proj": gradient["blocks"]["attention"]["q_proj"]}
    result = found(task, {"blocks": {"attention": queries}}, max_rank=7)
    assert tokens(result) == tokens(texts[1:, :-1])
    assert tokens(found(task, gradient)) == tokens(texts[:, :-1])


@pytest.mark.slow
def test_texts_of_several_lengths():
    task = task_of()
    texts = batch(TEXTS)
    mask = np.array([[True] * 8, [True] * 5 + [False] * 3])
    gradient = jax.jit(jax.grad(task.loss))(
        task.params, task.frozen, texts._replace(mask=mask, segments=mask.astype(int))
    )
    assert tokens(found(task, gradient)) == tokens([TEXTS[0, :8], TEXTS[1, :5]])
    cut = [TEXTS[0, :3], TEXTS[1, :3]]
    assert tokens(found(task, gradient, length=3)) == tokens(cut)  # the limit


@pytest.mark.slow
def test_another_message_tells_its_own_texts_and_noise_none():
    task = task_of()
    others = gradient_of(task, OTHERS)
    assert tokens(found(task, others)) == tokens(OTHERS[:, :-1])
    noise = jax.tree.map(lambda leaf: jr.normal(jr.key(7), leaf.shape), others)
    assert found(task, noise, max_rank=16) == []
    assert found(task, jax.tree.map(jnp.zeros_like, others)) == []


@pytest.mark.slow
def test_eight_bits_tell_both_texts_and_one_bit_does_not():
    """The beam search needs the number of tokens, and the length of the texts."""
    task = task_of()
    gradient = gradient_of(task, TEXTS)
    beam = {"length": 8, "near": 1.0, "max_rank": 16, "texts": 2}
    beam |= {"most_tokens": 24, "most_prefixes": 24}

    def decoded(name):
        built = codec(name)
        payload, _ = built.encode(jr.key(1), gradient, built.init(gradient))
        return built.decode(payload, gradient)

    eight = decoded("blockwise_int(bits=8, block=64)")
    assert tokens(found(task, eight, **beam)) == TRUE
    one = decoded("eden(bits=1)")
    assert found(task, one, max_rank=16) == []
    result = found(task, one, **beam)
    assert len(result) == 2
    assert not any(each in TRUE for each in tokens(result))
    first, second = (text.tokens for text in result)
    assert (first == second).sum() < 4


@pytest.mark.slow
def test_limits_of_work_hold():
    task = task_of()
    gradient = gradient_of(task, TEXTS)
    assert len(found(task, gradient, near=1.0, length=3, most_tokens=5, most_prefixes=7)) <= 7
    model = task.model(task.params, task.frozen)
    one = recover_texts(model, gradient, length=8, most_prefixes=1)
    assert len(one) == 1
    assert one[0].tokens.tolist() in TRUE


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"length": 1}, "length: expected an integer at least 2, got 1"),
        ({"near": 0.0}, "near: expected a number above 0 and at most 1, got 0.0"),
        ({"most_tokens": 0}, "most_tokens: expected an integer at least 1, got 0"),
        ({"starts": [128]}, "starts: expected token ids below 128, at least one, got [128]"),
        ({"gradient": {"embedding": np.ones(3)}}, "gradient: expected nested dictionaries with"),
        (
            {"gradient": {"blocks": {"attention": {"q_proj": {"kernel": np.ones((1, 48, 48))}}}}},
            "gradient: expected two layers or more of numbers [48, outputs] in q_proj, got [1,",
        ),
        (
            {
                "gradient": {
                    "blocks": {"attention": {"q_proj": {"kernel": np.stack([np.eye(48)] * 2)}}}
                }
            },
            "gradient: expected a rank below its 48 inputs, got 48, whose span holds every",
        ),
    ],
)
def test_errors(given, text):
    task = task_of()
    kernel = np.zeros((2, 48, 48))
    gradient = {"blocks": {"attention": {"q_proj": {"kernel": kernel}}}}
    arguments = {"gradient": gradient, "length": 4} | given
    with pytest.raises(ValueError, match=r"^recover_texts: ") as error:
        recover_texts(task.model(task.params, task.frozen), **arguments)
    assert text in str(error.value)


def test_one_stack_of_two_blocks_is_needed():
    task = task_of(num_hidden_layers=1)
    with pytest.raises(ValueError, match="recover_texts: model: expected one stack of two blocks"):
        recover_texts(task.model(task.params, task.frozen), {}, length=4)
