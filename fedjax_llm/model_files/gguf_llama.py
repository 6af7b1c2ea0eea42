"""A Llama model in a GGUF file, in the Hugging Face view.

llama.cpp orders the rows of each head of q and k so that the two of a rotary pair are neighbours;
Hugging Face has the first of all pairs before the second of all. Reading undoes it.
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
    """The Llama model in a GGUF file. Needs the gguf package: `pip install "fedjax-llm[gguf]"`.

    Quantised tensors read as float32; q and k have their rows in Hugging Face's order.
    Raises: `ValueError` for another architecture, for a tensor or a rotary scaling that is unknown
    here, and for a file that is not what its header says.
    """
    header = read_gguf_header(path)
    config = _config(path, header)
    tensors = {}
    for name, place in header.tensors.items():
        dtype, read = gguf_values(path, name, place)
        theirs, heads = _hugging_face_name(path, name, config)
        if heads:
            rows = heads * config["head_dim"]
            if place.shape[0] != rows:
                raise ValueError(
                    f"{path}: tensor {name!r} must have {rows} rows, {config['head_dim']} for "
                    f"each of {heads} heads, got shape {place.shape}."
                )
            read = partial(_halves, read, heads)
        tensors[theirs] = LazyTensor(place.shape, dtype, read, source=path)
    return ModelFiles(path, config, tensors, partial(read_gguf_tokenizer, path))


def _hugging_face_name(path: Path, name: str, config: Mapping[str, Any]) -> tuple[str, int]:
    """Its name, and how many heads' rows are to be put in order: 0 for all but q and k."""
    if name in _OUTER:
        return _OUTER[name], 0
    match = _IN_BLOCK.fullmatch(name)
    if match is None or match[2] not in _INNER:
        raise ValueError(f"{path}: tensor {name!r} must be one of a Llama model, and is not known.")
    if int(match[1]) >= config["num_hidden_layers"]:
        raise ValueError(
            f"{path}: tensor {name!r} must be of one of {config['num_hidden_layers']} layers."
        )
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(match[2])
    theirs = f"model.layers.{match[1]}.{_INNER[match[2]]}.{match[3]}"
    return theirs, config[heads] if heads else 0


def _halves(read: Callable[[], np.ndarray], heads: int) -> np.ndarray:
    """Rows of each head: from neighbouring pairs to two halves."""
    rows = read()
    pairs = rows.reshape(heads, rows.shape[0] // (2 * heads), 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _config(path: Path, header: GgufHeader) -> dict[str, Any]:
    """config.json, as transformers 5 reads it."""
    given = header.metadata
    architecture = given.get("general.architecture")
    if architecture != "llama":
        raise ValueError(
            f"{path}: general.architecture must be 'llama', the only one that is read from GGUF, "
            f"got {architecture!r:.80}; other models are read from safetensors."
        )
    if given.get("split.count", 1) not in (0, 1):
        raise ValueError(f"{path}: must be the whole model, not one of several files.")
    if given.get("llama.expert_count", 0) != 0:
        raise ValueError(f"{path}: llama.expert_count must be 0: experts are not read from GGUF.")
    tied = "output.weight" not in header.tensors
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ValueError(f"{path}: there must be a matrix 'token_embd.weight'.")
    vocab, width = embedding.shape
    if (said := _count(path, given, "llama.embedding_length")) != width:
        raise ValueError(
            f"{path}: llama.embedding_length must be the width of 'token_embd.weight', {width}, "
            f"got {said}."
        )
    heads = _count(path, given, "llama.attention.head_count")
    head_dim = _count(path, given, "llama.attention.key_length", width // heads)
    if head_dim % 2:
        raise ValueError(f"{path}: heads must have an even width, got {head_dim}.")
    if given.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise ValueError(
            f"{path}: llama.rope.dimension_count must be the width of a head, {head_dim}: rotary "
            f"embeddings of a part are not known; got {given['llama.rope.dimension_count']!r:.80}."
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
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        key = f"tokenizer.ggml.{theirs}_token_id"
        if key in given:
            config[f"{ours}_token_id"] = _count(path, given, key, least=0)
    return config


def _rope(path: Path, header: GgufHeader) -> dict[str, Any]:
    given = header.metadata
    theta = _real(path, given, "llama.rope.freq_base", 10000.0)
    kind = given.get("llama.rope.scaling.type", "none")
    old = "llama.rope.scale_linear" in given
    if kind not in ("none", "linear") or old or "rope_freqs.weight" in header.tensors:
        raise ValueError(
            f"{path}: rotary embeddings must be scaled not at all or linearly; scaling of type "
            f"{kind!r:.80} or by factors (rope_freqs.weight) is read from safetensors only."
        )
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    factor = _real(path, given, "llama.rope.scaling.factor")
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def _count(
    path: Path, given: Mapping[str, Any], key: str, otherwise: int | None = None, *, least: int = 1
) -> int:
    value = given.get(key, otherwise)
    if type(value) is not int or not least <= value < 2**31:
        raise ValueError(
            f"{path}: {key} must be a whole number of at least {least}, got {value!r:.80}."
        )
    return value


def _real(path: Path, given: Mapping[str, Any], key: str, otherwise: float | None = None) -> float:
    """A positive float32, as the shortest decimal that rounds to it: 1e-05, not 9.9999997e-06."""
    value = given.get(key, otherwise)
    if not isinstance(value, float) or not 0 < value < float("inf"):
        raise ValueError(f"{path}: {key} must be a positive number, got {value!r:.80}.")
    return float(str(np.float32(value)))
