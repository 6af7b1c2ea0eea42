"""A Llama model in a GGUF file, in the Hugging Face layout.

Both layouts order the rows of each head of q and k by rotary pairs. llama.cpp stores the two rows
of a pair next to each other; Hugging Face stores the first rows of all pairs, then the second rows.
Reading converts to the Hugging Face order.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .contract import LazyTensor, ModelFiles
from .gguf_header import GgufHeader, read_gguf_header
from .gguf_tokenizer import read_gguf_tokenizer
from .gguf_values import gguf_values
from .safetensors_reader import check_path

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IN_BLOCK = re.compile(r"blk\.(0|[1-9][0-9]{0,5})\.([a-z_]+)\.(weight|bias)")


def open_gguf(path: Path) -> ModelFiles:
    """Open the Llama model in a GGUF file; it needs `pip install "fedjax-llm[gguf]"`.

    Quantised tensors are read as float32. The rows of q and k are put in Hugging Face's order.
    The file is untrusted: the header is checked, and values are read only on request.

    Args:
        path: The file.

    Returns:
        Config, tensors and tokenizer of the model.

    Raises:
        TypeError: `path` is not a `pathlib.Path`.
        ModuleNotFoundError: The package gguf is not installed.
        ValueError: The architecture, a tensor or the rotary scaling is not supported, or the file
            is malformed; the message names the file.

    Example:
        >>> from fedjax_llm.model_files import open_gguf, smollm2
        >>> open_gguf(smollm2()).config["hidden_size"]  # doctest: +SKIP
        576

    """
    check_path(path, who="open_gguf", name="path")
    header = read_gguf_header(path)
    config = _config(path, header)
    tensors = {}
    for name, stored in header.tensors.items():
        dtype, read = gguf_values(path, name, stored)
        new_name, heads = _hugging_face_name(path, name, config)
        if heads:
            rows = heads * config["head_dim"]
            if stored.shape[0] != rows:
                raise ValueError(
                    f"{path}: tensor {name!r}: expected {rows} rows, {config['head_dim']} for "
                    f"each of {heads} heads, got shape {stored.shape}."
                )
            read = partial(_halves, read, heads)
        tensors[new_name] = LazyTensor(stored.shape, dtype, read, source=path)
    return ModelFiles(path, config, tensors, partial(read_gguf_tokenizer, path))


def _hugging_face_name(path: Path, name: str, config: Mapping[str, Any]) -> tuple[str, int]:
    """Hugging Face name of a tensor, and the number of heads to reorder: 0 except for q and k."""
    if name in _OUTER:
        return _OUTER[name], 0
    match = _IN_BLOCK.fullmatch(name)
    if match is None or match[2] not in _INNER:
        raise ValueError(f"{path}: expected only tensors of a Llama model, got {name!r}.")
    if int(match[1]) >= config["num_hidden_layers"]:
        raise ValueError(
            f"{path}: expected only tensors of {config['num_hidden_layers']} layers, got {name!r}."
        )
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(match[2])
    new_name = f"model.layers.{match[1]}.{_INNER[match[2]]}.{match[3]}"
    return new_name, config[heads] if heads else 0


def _halves(read: Callable[[], np.ndarray], heads: int) -> np.ndarray:
    """Reorder the rows of each head from neighbouring pairs to two halves."""
    rows = read()
    pairs = rows.reshape(heads, rows.shape[0] // (2 * heads), 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _config(path: Path, header: GgufHeader) -> dict[str, Any]:
    """Make the mapping of a `config.json` that transformers 5 reads."""
    given = header.metadata
    architecture = given.get("general.architecture")
    if not isinstance(architecture, str) or architecture != "llama":
        raise ValueError(
            f"{path}: general.architecture: expected 'llama', got {architecture!r:.80}; other "
            "architectures are read from safetensors."
        )
    if (parts := _count(path, given, "split.count", 1, least=0)) > 1:
        raise ValueError(
            f"{path}: split.count: expected one file with the whole model, got {parts}."
        )
    if experts := _count(path, given, "llama.expert_count", 0, least=0):
        raise ValueError(
            f"{path}: llama.expert_count: expected 0 (experts are not supported), got {experts}."
        )
    tied = "output.weight" not in header.tensors
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        got = None if embedding is None else f"shape {embedding.shape}"
        raise ValueError(f"{path}: tensor 'token_embd.weight': expected a matrix, got {got}.")
    vocab, width = embedding.shape
    if (stated := _count(path, given, "llama.embedding_length")) != width:
        raise ValueError(
            f"{path}: llama.embedding_length: expected {width}, the width of 'token_embd.weight', "
            f"got {stated}."
        )
    heads = _count(path, given, "llama.attention.head_count")
    head_dim = _count(path, given, "llama.attention.key_length", width // heads)
    if head_dim % 2:
        raise ValueError(f"{path}: width of a head: expected an even number, got {head_dim}.")
    if (turned := _count(path, given, "llama.rope.dimension_count", head_dim)) != head_dim:
        raise ValueError(
            f"{path}: llama.rope.dimension_count: expected {head_dim}, the width of a head, got "
            f"{turned}; partial rotary embeddings are not supported."
        )
    biased = {name.split(".")[2][:4] for name in header.tensors if name.endswith(".bias")}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": _count(path, given, "llama.feed_forward_length"),
        "num_hidden_layers": _count(path, given, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _count(path, given, "llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": _count(path, given, "llama.context_length"),
        "rms_norm_eps": _real(path, given, "llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": _rope(path, header),
        "attention_bias": "attn" in biased,
        "mlp_bias": "ffn_" in biased,
        "tie_word_embeddings": tied,
    }
    for role, gguf_role in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        key = f"tokenizer.ggml.{gguf_role}_token_id"
        if key in given:
            config[f"{role}_token_id"] = _count(path, given, key, least=0)
    return config


def _rope(path: Path, header: GgufHeader) -> dict[str, Any]:
    """Make the rope_parameters of a `config.json`."""
    given = header.metadata
    theta = _real(path, given, "llama.rope.freq_base", 10000.0)
    kind = given.get("llama.rope.scaling.type", "none")
    old = "llama.rope.scale_linear" in given
    plain = isinstance(kind, str) and kind in ("none", "linear")
    if not plain or old or "rope_freqs.weight" in header.tensors:
        raise ValueError(
            f"{path}: llama.rope.scaling.type: expected none or linear, without the tensor "
            f"rope_freqs.weight, got {kind!r:.80}; other scalings are read from safetensors."
        )
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    factor = _real(path, given, "llama.rope.scaling.factor")
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def _count(
    path: Path, given: Mapping[str, Any], key: str, otherwise: int | None = None, *, least: int = 1
) -> int:
    """Read an integer."""
    value = given.get(key, otherwise)
    if type(value) is not int or not least <= value < 2**31:
        raise ValueError(f"{path}: {key}: expected an integer at least {least}, got {value!r:.80}.")
    return value


def _real(path: Path, given: Mapping[str, Any], key: str, otherwise: float | None = None) -> float:
    """Read a positive float32 as its shortest decimal: 1e-05, not 9.9999997e-06."""
    value = given.get(key, otherwise)
    if not isinstance(value, float) or not 0 < value < float("inf"):
        raise ValueError(f"{path}: {key}: expected a positive number, got {value!r:.80}.")
    return float(str(np.float32(value)))
