import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fedjax_llm.models import (
    Classifier,
    Encoder,
    EncoderConfig,
    encoder_config_from,
    encoder_config_to,
    filled,
    hf_encoder_tensors,
    load_encoder,
    mean_pool,
)
from tests.helpers.families import BERT, LABELS, ONCE, bert_weights, readers, tokens

CONFIG = encoder_config_from(BERT)
READERS = readers(bert_weights())
PARAMS = load_encoder(CONFIG, READERS, labels=LABELS)


def encode(ids, config=CONFIG, **kwargs):
    def run(params, ids, kwargs):
        return filled(lambda: Encoder(config, rngs=nnx.Rngs(0)), params)(ids, **kwargs)

    return jax.jit(run, compiler_options=ONCE)(PARAMS["encoder"], jnp.asarray(ids), kwargs)


@pytest.mark.slow
def test_scores_equal_those_of_transformers():
    golden = np.load(Path(__file__).parent / "golden.npz")["bert"]
    model = filled(lambda: Classifier(CONFIG, labels=LABELS, rngs=nnx.Rngs(0)), PARAMS)
    scores = model(jnp.asarray(tokens((2, 12))))
    assert np.abs(scores - golden).max() < 1e-5 * np.abs(golden).max()


@pytest.mark.slow
def test_attention_is_bidirectional_within_a_segment_only():
    ids, segments = tokens((1, 12)), jnp.array([[1] * 5 + [2] * 4 + [0] * 3])
    hidden = encode(ids, segments=segments)
    assert jnp.isfinite(hidden).all()
    np.testing.assert_allclose(hidden[:, :5], encode(ids[:, :5]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(hidden[:, 5:9], encode(ids[:, 5:9]), rtol=1e-4, atol=1e-4)


def test_mean_pool_excludes_padding():
    hidden = jnp.arange(12.0).reshape(2, 3, 2)
    got = mean_pool(hidden, jnp.array([[1, 1, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(got, [[1.0, 2.0], [0.0, 0.0]])
    np.testing.assert_array_equal(mean_pool(hidden), hidden.mean(axis=1))


@pytest.mark.slow
def test_bfloat16_is_near_float32():
    ids = tokens((2, 12))
    exact, rough = encode(ids), encode(ids, dataclasses.replace(CONFIG, dtype="bfloat16"))
    assert rough.dtype == jnp.bfloat16
    assert 0 < jnp.std(rough - exact) < 0.02 * jnp.std(exact)


@pytest.mark.slow
def test_a_classifier_with_mean_pooling_learns():
    config = dataclasses.replace(EncoderConfig(), pooler=False, hidden_size=16, remat=True)
    model = Classifier(config, labels=2, pooling="mean", rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)
    ids, labels = jnp.asarray(tokens((8, 6))), jnp.arange(8) % 2

    adam = optax.adam(0.01)

    @jax.jit
    def step(state, moments):
        def loss(state):
            scores = nnx.merge(graph, state)(ids)
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

        value, gradient = jax.value_and_grad(loss)(state)
        change, moments = adam.update(gradient, moments)
        return value, optax.apply_updates(state, change), moments

    first, state, moments = step(state, adam.init(state))
    for _ in range(30):
        last, state, moments = step(state, moments)
    assert last < 0.1 * first


def test_tensors_and_configs_survive_a_round_trip():
    assert encoder_config_from(encoder_config_to(CONFIG)) == CONFIG
    named = encoder_config_to(CONFIG, labels=2, label_names=("bad", "good"))
    assert named["id2label"] == {"0": "bad", "1": "good"}
    for labels, names in (
        (2, ("bad",)),
        (2, ("bad", "bad")),
        (None, ("bad", "good")),
        (2, ["bad", "bad", "good"]),
    ):
        with pytest.raises(ValueError, match=r"label_names: expected .*, each once, got"):
            encoder_config_to(CONFIG, labels=labels, label_names=names)
    written = hf_encoder_tensors(CONFIG, PARAMS, labels=LABELS)
    assert set(written) == set(bert_weights())
    for name, value in written.items():
        np.testing.assert_array_equal(value, bert_weights()[name])


def test_missing_prefixes_old_names_and_pretraining_heads_are_accepted():
    old = {
        name.removeprefix("bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): read
        for name, read in READERS.items()
        if not name.startswith("classifier.")
    }
    old |= {"cls.predictions.bias": lambda: np.zeros(48), "embeddings.position_ids": np.zeros}
    loaded = load_encoder(CONFIG, old)
    jax.tree.map(np.testing.assert_array_equal, loaded, PARAMS["encoder"])
    with pytest.raises(
        ValueError, match=r"x: tensors: expected bert.pooler.dense.bias \(32,\), got none"
    ):
        load_encoder(
            CONFIG,
            {name: read for name, read in READERS.items() if "pooler.dense.bias" not in name},
            labels=LABELS,
            source="x",
        )
    with pytest.raises(
        ValueError, match=r"those of the model, got classifier.bias, classifier.weight"
    ):
        load_encoder(CONFIG, READERS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type: expected 'bert', got 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: expected 'abs"),
        ({"is_decoder": True}, "is_decoder: expected False, got True"),
        ({"hidden_act": "relu"}, "hidden_act: expected 'silu' or .*, got 'relu'"),
        ({"hidden_size": None}, "hidden_size: expected a whole number from 1 to .*, got None"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps: expected a number above 0, got -1.0"),
    ],
)
def test_unsupported_fields_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        encoder_config_from({**BERT, **change})


def test_invalid_sizes_are_refused():
    with pytest.raises(ValueError, match=r"hidden_size: expected a multiple of .* = 5, got 64"):
        Encoder(EncoderConfig(num_attention_heads=5), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="labels: expected an integer at least 2, got 1"):
        Classifier(CONFIG, labels=1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r'pooling: expected "mean" for .* got "first"'):
        Classifier(EncoderConfig(pooler=False), labels=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"tokens: expected at most 64 .*, got 65"):
        encode(tokens((1, 65)))
