import jax
import numpy as np
import pytest

from fedjax_llm.models import config_from, hf_tensors, load_tensors
from tests.helpers.families import FAMILIES, params, readers, weights


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", ["llama_linear", "gemma3", "gpt2"])
def test_tensors_survive_a_round_trip(name):
    config = config_from(FAMILIES[name])
    written = hf_tensors(config, params(config))
    equal(written, weights(config))
    assert all(value.flags.c_contiguous for value in written.values())


def test_kernels_are_transposed_except_for_gpt2():
    config = config_from(FAMILIES["llama2"])
    kernel = params(config)["blocks"]["mlp"]["up_proj"]["kernel"]
    stored = weights(config)["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_array_equal(kernel[1], stored.T)
    config = config_from(FAMILIES["gpt2"])
    kernel = params(config)["blocks"]["mlp"]["up_proj"]["kernel"]
    np.testing.assert_array_equal(kernel[1], weights(config)["transformer.h.1.mlp.c_fc.weight"])


def test_parameters_have_the_requested_dtype():
    config = config_from(FAMILIES["llama2"])
    loaded = load_tensors(config, readers(weights(config)), dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded)} == {"bfloat16"}


def test_a_gpt2_without_prefix_and_with_mask_buffers_is_read():
    config = config_from(FAMILIES["gpt2"])
    bare = {name.removeprefix("transformer."): value for name, value in weights(config).items()}
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 8, 8)))
    equal(load_tensors(config, readers(bare)), params(config))


def test_a_tied_head_in_the_files_must_equal_the_embedding():
    config = config_from(FAMILIES["smollm2"])
    tensors = dict(weights(config))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    equal(load_tensors(config, readers(tensors)), params(config))
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    with pytest.raises(ValueError, match=r"x.safetensors: lm_head.weight: expected the embedding"):
        load_tensors(config, readers(tensors), source="x.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model.layers.1.mlp.up_proj.weight": None},
            r"tensors: expected model.layers.1.mlp.up_proj.weight \(40, 32\), got none",
        ),
        ({"lm_head.weight": None}, r"tensors: expected lm_head.weight \(48, 32\), got none"),
        (
            {"model.layers.3.mlp.up_proj.weight": np.zeros((40, 32))},
            "tensors: expected only those of the model, got model.layers.3.mlp.up_proj.weight",
        ),
        (
            {"model.layers.0.self_attn.q_proj.bias": np.zeros(32)},
            "tensors: expected only those of the model, got model.layers.0.self_attn.q_proj.bias",
        ),
        (
            {"model.layers.2.mlp.up_proj.weight": np.zeros((32, 40))},
            r"model.layers.2.mlp.up_proj.weight: expected shape \(40, 32\), got \(32, 40\)",
        ),
    ],
)
def test_tensors_that_do_not_match_the_model_are_refused(change, message):
    config = config_from(FAMILIES["llama2"])
    tensors = {k: v for k, v in (weights(config) | change).items() if v is not None}
    with pytest.raises(ValueError, match=f"^model files: {message}"):
        load_tensors(config, readers(tensors))
