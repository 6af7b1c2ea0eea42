"""Structure of each model family, and the keys of its `config.json`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .config import ModelType


class Family(NamedTuple):
    """Structure and `config.json` keys of one `model_type`.

    Attributes:
        fixed: Fields of `DecoderConfig` that are the same for the whole family.
        keys: Keys of the fields whose key differs from the field's name.
        defaults: Values of keys that a file may leave out.
        only: Supported values of keys; a file with another value is refused.

    """

    fixed: Mapping[str, Any] = {}
    keys: Mapping[str, str] = {}
    defaults: Mapping[str, Any] = {}
    only: Mapping[str, tuple] = {}


_GEMMA = {"norm": "rms_plus_one", "norm_placement": "pre_and_post", "scale_embeddings": True}
_GEMMA_DEFAULTS = {
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "head_dim": 256,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
_GEMMA_ONLY = {"use_bidirectional_attention": (None, False)}
_GPT2_FIXED = {
    "norm": "layer",
    "position_embeddings": "learned",
    "attention_bias": "all",
    "mlp_bias": True,
    "fused_qkv": True,
    "mlp": "plain",
}
_GPT2_KEYS = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}
FAMILIES: dict[ModelType, Family] = {
    "llama": Family(),
    "mistral": Family(
        defaults={
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
        },
        only={"attention_bias": (None, False)},
    ),
    "qwen2": Family({"attention_bias": "qkv"}, defaults={"max_position_embeddings": 32_768}),
    "qwen3": Family(
        {"qk_norm": True}, defaults={"head_dim": 128, "max_position_embeddings": 32_768}
    ),
    "gemma2": Family(
        _GEMMA,
        {"hidden_act": "hidden_activation"},
        _GEMMA_DEFAULTS
        | {
            "max_position_embeddings": 8192,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        _GEMMA_ONLY,
    ),
    "gemma3_text": Family(
        _GEMMA | {"qk_norm": True},
        {"hidden_act": "hidden_activation"},
        _GEMMA_DEFAULTS | {"max_position_embeddings": 131_072},
        _GEMMA_ONLY,
    ),
    "gpt2": Family(
        _GPT2_FIXED,
        _GPT2_KEYS,
        {
            "n_inner": None,
            "n_positions": 1024,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
        {
            "add_cross_attention": (False,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "scale_attn_weights": (True,),
        },
    ),
}
DEFAULTS: dict[str, Any] = {
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
"""Values of keys that a file of any family may leave out."""
ONLY: dict[str, tuple] = {
    "partial_rotary_factor": (None, 1, 1.0),
    "quantization_config": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
}
"""Supported values of keys, for every family."""

_SCORES = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
UNKNOWN: dict[ModelType, tuple[str, ...]] = {
    "llama": (*_SCORES, "sliding_window"),
    "mistral": (*_SCORES, "mlp_bias", "attention_bias"),
    "qwen2": (*_SCORES, "mlp_bias", "attention_bias"),
    "qwen3": (*_SCORES, "mlp_bias"),
    "gemma2": ("mlp_bias",),
    "gemma3_text": ("mlp_bias",),
    "gpt2": (
        *_SCORES,
        "mlp_bias",
        "attention_bias",
        "num_key_value_heads",
        "head_dim",
        "sliding_window",
    ),
}
"""Fields of `DecoderConfig` for which a family has no key."""
ARCHITECTURES: dict[ModelType, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
