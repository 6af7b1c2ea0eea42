"""The encoder compared with transformers on torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from transformers import AutoConfig

from fedjax_llm.models import (
    Classifier,
    encoder_config_from,
    encoder_config_to,
    filled,
    hf_encoder_tensors,
    load_encoder,
    mean_pool,
)
from tests.helpers.families import BERT, LABELS, bert_weights, readers, tokens
from tests.parity.reference import bert_reference

CONFIG = encoder_config_from(BERT)
THERE = np.arange(20) < np.array([[20], [13], [4]])
TYPES = ((np.arange(20) >= 8) & THERE).astype(np.int32)


def params():
    return load_encoder(CONFIG, readers(bert_weights()), labels=LABELS)


def classifier(params, config=CONFIG):
    return filled(lambda: Classifier(config, labels=LABELS, rngs=nnx.Rngs(0)), params)


def given(ids):
    return {
        "input_ids": torch.from_numpy(ids).long(),
        "attention_mask": torch.from_numpy(THERE).long(),
        "token_type_ids": torch.from_numpy(TYPES).long(),
    }


def off(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


def test_hidden_states_scores_and_means():
    ids = tokens((3, 20))
    model, segments = classifier(params()), jnp.asarray(THERE.astype(np.int32))
    hidden = model.encoder(jnp.asarray(ids), segments=segments, types=jnp.asarray(TYPES))
    scores = model(jnp.asarray(ids), segments=segments, types=jnp.asarray(TYPES))
    theirs = bert_reference()
    with torch.no_grad():
        expected = theirs.bert(**given(ids))
        logits = theirs(**given(ids)).logits.numpy()
    there = torch.from_numpy(THERE)[..., None].float()
    means = (expected.last_hidden_state * there).sum(1) / there.sum(1)
    errors = {
        "hidden": off(hidden[THERE], expected.last_hidden_state.numpy()[THERE]),
        "pooled": off(model.encoder.first(hidden), expected.pooler_output.numpy()),
        "mean": off(mean_pool(hidden, segments), means.numpy()),
        "scores": off(scores, logits),
    }
    print("\nbert", {key: f"{error:.1e}" for key, error in errors.items()})
    assert max(errors.values()) < 1e-4


def test_gradients():
    ids, labels = tokens((3, 20)), np.array([0, 3, 4])

    def loss(params):
        scores = classifier(params)(
            jnp.asarray(ids),
            segments=jnp.asarray(THERE.astype(np.int32)),
            types=jnp.asarray(TYPES),
        )
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    got = hf_encoder_tensors(CONFIG, jax.jit(jax.grad(loss))(params()), labels=LABELS)
    theirs = bert_reference()
    scores = theirs(**given(ids)).logits
    torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels)).backward()
    expected = {key: value.grad.numpy() for key, value in theirs.named_parameters()}
    assert set(got) == set(expected)
    # a key's bias adds the same to all scores of a query, so its gradient is only rounding
    errors = {key: off(got[key], each) for key, each in expected.items() if "key.bias" not in key}
    error = max(errors.values())
    print(f"\nbert gradients {error:.1e}")
    largest = max(np.abs(each).max() for each in expected.values())
    assert max(np.abs(got[key]).max() for key in set(got) - set(errors)) < 1e-6 * largest
    assert error < 1e-3


@pytest.mark.parametrize("layout", ["to_dict", "to_diff_dict"])
def test_configs_of_transformers_are_read(layout):
    assert encoder_config_from(getattr(AutoConfig.for_model(**BERT), layout)()) == CONFIG
    assert (
        encoder_config_from(AutoConfig.for_model(**encoder_config_to(CONFIG)).to_dict()) == CONFIG
    )
