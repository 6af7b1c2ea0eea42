import contextlib
import dataclasses
import math

import pytest

from fedjax_llm import DecoderConfig
from fedjax_llm.models import LinearScaling, Llama3Scaling, config_from, config_to
from tests.helpers.families import FAMILIES, LLAMA3

LLAMA = FAMILIES["llama2"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_survives_a_round_trip(name):
    config = config_from(FAMILIES[name], dtype="bfloat16", remat=True)
    assert config_from(config_to(config), dtype="bfloat16", remat=True) == config


def test_the_default_config_is_a_llama():
    assert config_to(DecoderConfig())["model_type"] == "llama"
    assert config_from(config_to(DecoderConfig())) == DecoderConfig()


def test_both_rope_layouts_give_the_same_config():
    old = {**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}}
    new = {key: value for key, value in LLAMA.items() if key != "rope_theta"}
    new["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}
    assert config_from(old) == config_from(new)
    assert config_from(old).rope_scaling == Llama3Scaling(**LLAMA3)
    local = config_from(FAMILIES["gemma3_linear"])
    assert (local.rope_theta, local.rope_local_theta) == (1000.0, 100.0)
    assert local.rope_scaling == LinearScaling(factor=8.0)
    new = FAMILIES["gemma3_linear"]
    old = {key: value for key, value in new.items() if key != "rope_parameters"}
    old |= {"rope_theta": 1000.0, "rope_local_base_freq": 100.0}
    old["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    assert config_from(old) == local


def test_theta_is_written_in_both_layouts():
    written = config_to(config_from(FAMILIES["llama3"]))
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 500000.0
    assert written["rope_scaling"]["factor"] == written["rope_parameters"]["factor"] == 8.0


def test_each_family_chooses_its_sliding_layers():
    base = {k: v for k, v in FAMILIES["gemma3"].items() if k != "sliding_window_pattern"}
    gemma3 = config_from({**base, "num_hidden_layers": 7})
    assert gemma3.sliding == (True,) * 5 + (False, True)
    gemma2 = config_from({**FAMILIES["gemma2"], "num_hidden_layers": 4})
    assert gemma2.sliding == (True, False, True, False)
    assert config_from(FAMILIES["qwen2_window"]).sliding == (False, True, True)
    assert config_from({**FAMILIES["qwen2"], "sliding_window": 5}).sliding_window is None
    assert not any(config_from(FAMILIES["mistral"]).sliding)
    assert all(config_from(FAMILIES["mistral_window"]).sliding)


def test_missing_fields_get_the_defaults_of_the_family():
    gpt2 = config_from(FAMILIES["gpt2"])
    assert (gpt2.intermediate_size, gpt2.num_key_value_heads, gpt2.hidden_act) == (
        128,
        4,
        "gelu_new",
    )
    plain = {k: v for k, v in FAMILIES["mistral"].items() if k != "sliding_window"}
    assert config_from(plain).sliding_window == 4096
    assert config_from(FAMILIES["gemma2"]).final_logit_softcapping == 30.0


@pytest.mark.parametrize("name", FAMILIES)
def test_null_in_any_field_is_read_or_refused(name):
    """A null takes the place of the family's default."""
    for values in (FAMILIES[name], config_to(config_from(FAMILIES[name]))):
        for key in values:
            with contextlib.suppress(ValueError):  # and no other error
                config_from({**values, key: None})


@pytest.mark.parametrize(
    "field", ["max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "mlp_bias"]
)
def test_null_where_a_value_is_needed_is_refused(field):
    with pytest.raises(ValueError, match=f"{field}: expected .*, got None"):
        config_from({**LLAMA, field: None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "model_type: expected one of llama, .*, got 'mixtral'"),
        ({"model_type": None}, "model_type: expected one of llama, .*, got None"),
        (
            {"hidden_size": None},
            "hidden_size: expected a whole number, got None",
        ),
        (
            {"hidden_size": "32"},
            "hidden_size: expected a whole number from 1 to 2147483647, got '32'",
        ),
        ({"hidden_act": "relu2"}, "hidden_act: expected one of silu, .*, got 'relu2'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: expected true or false, got 1"),
        ({"num_local_experts": 8}, "num_local_experts: expected None or 0, got 8"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: expected None, got"),
        (
            {"partial_rotary_factor": 0.5},
            "partial_rotary_factor: expected None or 1 or 1.0, got 0.5",
        ),
        (
            {"rope_scaling": {"type": "yarn"}},
            "rope_scaling: rope_type: expected one of default, lin",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            "rope_parameters: rope_type: expected one",
        ),
        (
            {"rope_parameters": {"rope_theta": 5.0}},
            "rope_theta: expected 5.0, as in rope_parameters",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor: expected a number above 0"),
        ({"rope_scaling": {"type": "llama3", "factor": 2}}, "low_freq_factor: expected a number"),
        ({"rope_theta": -1}, "rope_theta: expected a number above 0, got -1"),
        ({"rope_theta": math.inf}, "rope_theta: expected a finite number above 0, got inf"),
        ({"rope_theta": 10**400}, "rope_theta: expected a finite number above 0, got int 1000"),
        ({"hidden_size": math.inf}, "hidden_size: expected a whole number from 1 to .*, got inf"),
        ({"vocab_size": math.nan}, "vocab_size: expected a whole number from 1 to .*, got nan"),
        ({"vocab_size": 0}, "vocab_size: expected a whole number from 1 to 2147483647, got 0"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers: expected a whole number from 1 to 1000"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps: expected a number above 0, got -1.0"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps: expected a finite number above 0, got nan"),
        ({"model_type": ["llama"]}, r"model_type: expected one of llama, .*, got \['llama'\]"),
        (
            {
                "rope_scaling": {
                    "type": "llama3",
                    **LLAMA3,
                    "original_max_position_embeddings": 1e999,
                }
            },
            "original_max_position_embeddings: expected a whole number from 1 to .*, got inf",
        ),
        ({**FAMILIES["gemma3"], "layer_types": 3}, "layer_types: expected a list of names, got 3"),
        (
            {**FAMILIES["gemma3"], "sliding_window_pattern": 0},
            "sliding_window_pattern: expected a whole number from 1 to 2147483647, got 0",
        ),
        (
            {**FAMILIES["qwen2_window"], "max_window_layers": "x"},
            "max_window_layers: expected a number, got 'x'",
        ),
        ({"num_key_value_heads": 3}, "num_attention_heads: expected a multiple of num_key_value"),
        (
            {**FAMILIES["gemma2"], "use_bidirectional_attention": True},
            "use_bidirectional_attention: expected None or False, got True",
        ),
        (
            {**FAMILIES["gpt2"], "scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx: expected False, got True",
        ),
        (
            {**FAMILIES["gpt2"], "n_embd": None},
            "n_embd: expected a whole number, got None",
        ),
        (
            {**FAMILIES["qwen2"], "layer_types": ["sliding_attention"] * 3},
            "sliding_window: expected a whole number, as layer_types has sliding layers, got None",
        ),
        ({**FAMILIES["gemma3"], "layer_types": ["full_attention"]}, "layer_types: expected 3 ent"),
    ],
)
def test_unsupported_fields_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        config_from({**LLAMA, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qk_norm": True}, "qk_norm: expected False for model_type 'llama', got True"),
        ({"mlp": "plain"}, "mlp: expected 'gated' for model_type 'llama', got 'plain'"),
        ({"sliding_window": 5}, "sliding_window: expected None for model_type 'llama', got 5"),
        ({"model_type": "qwen3"}, "qk_norm: expected True for model_type 'qwen3', got False"),
    ],
)
def test_a_structure_that_the_family_lacks_is_not_written(change, message):
    with pytest.raises(ValueError, match=message):
        config_to(dataclasses.replace(DecoderConfig(), **change))
