"""Decoders compared with transformers on torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from fedjax_llm.models import config_from, config_to, from_params, generate, hf_tensors
from tests.helpers.families import FAMILIES, params, tokens, weights
from tests.parity.golden import PATH
from tests.parity.reference import golden, reference

each_family = pytest.mark.parametrize("name", FAMILIES)


def ours(name, ids, dtype="float32", **kwargs):
    config = config_from(FAMILIES[name], dtype=dtype)
    forward = jax.jit(lambda params, ids, kwargs: from_params(config, params)(ids, **kwargs))
    return np.asarray(forward(params(config), ids, kwargs))


def theirs(name, ids, dtype=torch.float32, **kwargs):
    kwargs = {key: torch.from_numpy(np.array(value)).long() for key, value in kwargs.items()}
    with torch.no_grad():
        model = reference(name, dtype)
        logits = model(torch.from_numpy(ids).long(), use_cache=False, **kwargs).logits
        return logits.float().numpy()


def off(got, expected):
    """Largest error divided by the largest expected value."""
    return np.abs(got - expected).max() / np.abs(expected).max()


def say(name, what, error):
    print(f"\n{name:15} {what:20} {error:.1e}")


@each_family
def test_logits(name):
    ids = tokens((2, 33))
    error = off(ours(name, ids), theirs(name, ids))
    say(name, "float32", error)
    assert error < 1e-4


@each_family
def test_logits_at_2048_positions(name):
    ids = tokens((1, 2048), "long")
    error = off(ours(name, ids), theirs(name, ids))
    say(name, "2048 positions", error)
    assert error < 1e-4


@each_family
def test_logits_in_bfloat16(name):
    ids = tokens((2, 33))
    expected = theirs(name, ids)
    got, rounded = ours(name, ids, "bfloat16"), theirs(name, ids, torch.bfloat16)
    error, torch_error = (np.std(each - expected) / np.std(expected) for each in (got, rounded))
    say(name, f"bf16 (torch {torch_error:.1e})", error)
    assert error < max(2e-2, 1.1 * torch_error)


@each_family
def test_gradients(name):
    ids = tokens((2, 33))
    config = config_from(FAMILIES[name])

    def loss(params, ids):
        logits = from_params(config, params)(ids[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    got = hf_tensors(config, jax.jit(jax.grad(loss))(params(config), ids))
    model = reference(name)
    long = torch.from_numpy(ids).long()
    logits = model(long[:, :-1], use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), long[:, 1:].flatten()).backward()
    expected = {key: value.grad.numpy() for key, value in model.named_parameters()}
    assert set(got) == set(expected)
    # a key's bias adds the same to all scores of a query, so its gradient is only rounding
    floor = 1e-4 * max(np.abs(value).max() for value in expected.values())
    errors = {
        key: np.abs(got[key] - value).max() / max(np.abs(value).max(), floor)
        for key, value in expected.items()
    }
    say(name, "gradients", max(errors.values()))
    assert max(errors.values()) < 1e-3, errors


@each_family
def test_padding(name):
    ids = tokens((3, 20))
    there = np.arange(20) >= np.array([[0], [7], [13]])
    places = (np.cumsum(there, axis=1) - 1).clip(0)
    got = ours(name, ids, segments=there.astype(np.int32))
    assert np.isfinite(got).all()
    expected = theirs(name, ids, attention_mask=there, position_ids=places)
    error = off(got[there], expected[there])
    say(name, "left padding", error)
    assert error < 1e-4
    # right padding, without positions
    there = there[:, ::-1]
    got = ours(name, ids, segments=there.astype(np.int32))
    error = off(got[there], theirs(name, ids, attention_mask=there)[there])
    say(name, "right padding", error)
    assert error < 1e-4


@each_family
def test_packing(name):
    ids = tokens((2, 30))
    segments = np.repeat([[1, 2, 3], [1, 2, 0]], 10, axis=1).astype(np.int32)
    got = ours(name, ids, segments=segments)
    apart = theirs(name, ids.reshape(6, 10)).reshape(2, 30, -1)
    error = off(got, apart)
    say(name, "packing", error)
    assert error < 1e-4


@each_family
def test_greedy_text(name):
    prompts, lengths = tokens((3, 10), "prompts"), np.array([10, 3, 6])
    config = config_from(FAMILIES[name])
    model = from_params(config, params(config))
    got = generate(
        model, jnp.asarray(prompts), lengths=jnp.asarray(lengths), max_new_tokens=200
    ).tokens
    torch_model = reference(name)
    torch_model.generation_config.eos_token_id = None
    assert len(np.unique(got)) > (1 if name == "gpt2" else 3)
    padded = np.zeros_like(prompts)
    for row, prompt, length in zip(padded, prompts, lengths, strict=True):
        row[10 - length :] = prompt[:length]
    expected = torch_model.generate(
        torch.from_numpy(padded).long(),
        attention_mask=torch.from_numpy(np.arange(10) >= 10 - lengths[:, None]).long(),
        generation_config=GenerationConfig(
            max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0
        ),
    )
    assert np.array_equal(got, expected[:, 10:].numpy())


@each_family
def test_configs_are_compatible_with_transformers_5(name):
    config = config_from(FAMILIES[name])
    theirs = AutoConfig.for_model(**FAMILIES[name])
    assert config_from(theirs.to_dict()) == config
    assert config_from(theirs.to_diff_dict()) == config
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config_to(config)), attn_implementation="eager"
    )
    state = {key: torch.from_numpy(value) for key, value in weights(config).items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    model.tie_weights()
    ids = torch.from_numpy(tokens((2, 33))).long()
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, reference(name)(ids).logits)


@each_family
def test_tensors_equal_those_of_the_torch_model(name):
    config = config_from(FAMILIES[name])
    written = hf_tensors(config, params(config))
    theirs = dict(reference(name).named_parameters())  # a tied head appears once, as in files
    assert set(written) == set(theirs)
    for key, value in theirs.items():
        assert np.array_equal(written[key], value.detach().numpy()), key


def test_golden_values_are_current():
    kept = np.load(PATH)
    for name, logits in golden().items():
        assert off(kept[name], logits) < 1e-5, f"{name}: run make golden"
