"""A tiny model of every family: its `config.json`, and reproducible random tensors."""

import functools
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_llm.models import DecoderConfig, config_from, from_params, load_tensors
from fedjax_llm.models.hf_encoder import encoder_config_from, encoder_entries
from fedjax_llm.models.hf_tensors import Entry, Reader, entries

SIZES = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA = {
    "head_dim": 16,
    "sliding_window": 5,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 20,
}
FAMILIES = {
    "llama2": {"model_type": "llama", "rope_theta": 10000.0},
    "llama3": {
        "model_type": "llama",
        "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "llama3", **LLAMA3},
        "head_dim": 16,
    },
    "llama_linear": {
        "model_type": "llama",
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "linear", "factor": 3.0},
        "attention_bias": True,
        "mlp_bias": True,
    },
    "smollm2": {"model_type": "llama", "rope_theta": 100000.0, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": None, "rope_theta": 1000.0},
    "mistral_window": {"model_type": "mistral", "sliding_window": 5, "head_dim": 16},
    "qwen2": {"model_type": "qwen2", "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "qwen2_window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "rope_theta": 1000000.0},
    "gemma2": {"model_type": "gemma2", **GEMMA, "attn_logit_softcapping": 2.0},
    "gemma3": {
        "model_type": "gemma3_text",
        **GEMMA,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 100.0,
    },
    "gemma3_linear": {
        "model_type": "gemma3_text",
        **GEMMA,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_theta": 1000.0, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
        },
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 48,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 2048,
    },
}
BERT = {
    "model_type": "bert",
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
LABELS = 5
FAMILIES["gpt2_untied"] = {**FAMILIES["gpt2"], "tie_word_embeddings": False}
for values in FAMILIES.values():
    if values["model_type"] != "gpt2":
        values.update({key: size for key, size in SIZES.items() if key not in values})


def uniform(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Uniform values in [-1, 1), from raw Philox bits, so that they are equal in every NumPy."""
    bits = np.random.Philox(key=[seed, zlib.crc32(name.encode())]).random_raw(int(np.prod(shape)))
    return ((bits >> np.uint64(11)) * 2.0**-52 - 1).reshape(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...], *, plus_one: bool = False) -> np.ndarray:
    """One tensor, scaled so that norms and biases change the logits."""
    drawn = uniform(name, shape)
    if len(shape) == 1:
        return 0.3 * drawn + ("bias" not in name and not plus_one)
    return drawn * 2 * shape[-1] ** -0.5


def drawn(entries: list[Entry], *, plus_one: bool = False) -> dict[str, np.ndarray]:
    """Random tensors for the entries, by Hugging Face name."""
    return {
        name: weight(name, entry.shape, plus_one=plus_one)
        for entry in entries
        for name in (entry.name.format(layer) for layer in range(entry.layers or 1))
    }


def readers(tensors: Mapping[str, np.ndarray]) -> dict[str, Reader]:
    """Functions that read the tensors, as `load_tensors` takes them."""
    return {name: lambda value=value: value for name, value in tensors.items()}


@functools.cache
def weights(config: DecoderConfig) -> dict[str, np.ndarray]:
    """All tensors of a decoder, by Hugging Face name."""
    return drawn(entries(config), plus_one=config.norm == "rms_plus_one")


@functools.cache
def bert_weights() -> dict[str, np.ndarray]:
    """All tensors of a BERT classifier, by Hugging Face name."""
    return drawn(encoder_entries(encoder_config_from(BERT), labels=LABELS))


@functools.cache
def params(config: DecoderConfig) -> dict:
    """The parameters of a `Decoder` with the tensors of `weights`."""
    return load_tensors(config, readers(weights(config)))


def tokens(shape: tuple[int, int], name: str = "tokens") -> np.ndarray:
    return ((uniform(name, shape) + 1) * 24).astype(np.int32)


ONCE = {"xla_backend_optimization_level": 0}
"""Compiler options for programs that run once: they compile in half the time."""


@functools.partial(jax.jit, static_argnames="config", compiler_options=ONCE)
def _forward(params, ids, kwargs, *, config):
    return from_params(config, params)(ids, **kwargs)


def forward(name: str, ids: np.ndarray, *, dtype: str = "float32", **kwargs) -> jax.Array:
    """Logits of the model of a family."""
    config = config_from(FAMILIES[name], dtype=dtype)
    return _forward(params(config), jnp.asarray(ids), kwargs, config=config)
