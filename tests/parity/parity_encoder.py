"""The encoder compared with transformers on torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
from flax import nnx
from transformers import AutoConfig, AutoModelForSequenceClassification

from fedjax_llm.adapters import (
    adapt,
    dora,
    export_adapter,
    ia3,
    import_adapter,
    lora,
    merge_adapter,
    rslora,
)
from fedjax_llm.models import (
    Classifier,
    encoder_config_from,
    encoder_config_to,
    filled,
    hf_encoder_tensors,
    load_encoder,
    mean_pool,
    save,
)
from tests.helpers.families import BERT, LABELS, bert_weights, readers, tokens, uniform
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


ADAPTERS = {
    "lora": lora(rank=3),
    "rslora": rslora(rank=4, targets="query,value"),
    "dora": dora(rank=2, targets="key,dense"),
    "ia3": ia3(),
}


def moved(adapter):
    """A classifier with an adapter whose parameters change the scores."""
    one = adapt(adapter, classifier(params()), key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(one.params)
    leaves = [p + 0.3 * uniform(f"leaf {i}", p.shape) for i, p in enumerate(leaves)]
    model = one.merge(jax.tree.unflatten(structure, leaves), one.frozen)
    model.classifier.kernel = nnx.Param(jnp.asarray(uniform("head", model.classifier.kernel.shape)))
    return model


def scores(model):
    there, types = (jnp.asarray(each.astype(np.int32)) for each in (THERE, TYPES))
    return np.asarray(model(jnp.asarray(tokens((3, 20))), segments=there, types=types))


def torch_scores(model):
    with torch.no_grad():
        return model.eval()(**given(tokens((3, 20)))).logits.numpy()


@pytest.mark.parametrize("kind", ADAPTERS)
def test_peft_reads_our_adapters_of_a_classifier_with_its_head(kind, tmp_path):
    model = moved(ADAPTERS[kind])
    export_adapter(tmp_path, model)
    theirs = peft.PeftModel.from_pretrained(bert_reference(), tmp_path)
    error, effect = (
        off(each, torch_scores(theirs)) for each in (scores(model), torch_scores(bert_reference()))
    )
    print(f"\nbert {kind:8} error {error:.1e}, effect {effect:.1e}")
    assert error < 1e-4
    assert effect > 1e-2
    one = adapt(import_adapter(tmp_path), classifier(params()), key=jax.random.key(0))
    np.testing.assert_array_equal(scores(one.merge(one.params, one.frozen)), scores(model))


def test_we_read_a_classifiers_adapter_of_peft(tmp_path):
    torch.manual_seed(0)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=3, target_modules=["query", "value"], init_lora_weights=False
    )
    theirs = peft.get_peft_model(bert_reference(), config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    one = adapt(import_adapter(tmp_path), classifier(params()), key=jax.random.key(0))
    assert off(scores(one.merge(one.params, one.frozen)), torch_scores(theirs)) < 1e-4


@pytest.mark.parametrize("kind", ADAPTERS)
def test_merged_classifiers_open_in_transformers(kind, tmp_path):
    model = moved(ADAPTERS[kind])
    save(tmp_path / "model", CONFIG, merge_adapter(model), labels=LABELS)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert off(scores(model), torch_scores(theirs)) < 1e-4
