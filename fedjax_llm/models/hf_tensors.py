"""Parameters by the names that Hugging Face checkpoints give them, read and written strictly."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from .config import DecoderConfig
from .decoder import empty

Reader = Callable[[], Any]
"""Gives one tensor when called, as an array."""
Keep = Callable[[np.ndarray], Any]
"""Takes a finished parameter and gives what is kept of it, such as an array on a device."""


class Entry(NamedTuple):
    """One parameter of ours, and the tensor or, layer by layer, the tensors that it is."""

    name: str
    """With {} for the layer's number, where there is one."""
    path: tuple[str, ...]
    """Keys into the nested dictionaries of parameters."""
    shape: tuple[int, ...]
    """Of one tensor as it is stored."""
    layers: int | None
    """How many are stacked, if any."""
    transposed: bool
    """Whether it is stored as [out, in], as torch's Linear is; GPT-2's is not."""


_LLAMA = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm",
    "head": "lm_head",
    "blocks.input_norm": "model.layers.{}.input_layernorm",
    "blocks.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "blocks.attention.*": "model.layers.{}.self_attn.*",
    "blocks.mlp.*": "model.layers.{}.mlp.*",
}
_GEMMA = _LLAMA | {
    "blocks.attention_out_norm": "model.layers.{}.post_attention_layernorm",
    "blocks.post_attention_norm": "model.layers.{}.pre_feedforward_layernorm",
    "blocks.mlp_out_norm": "model.layers.{}.post_feedforward_layernorm",
}
_GPT2 = {
    "embedding": "transformer.wte.weight",
    "position_embedding": "transformer.wpe.weight",
    "norm": "transformer.ln_f",
    "head": "lm_head",
    "blocks.input_norm": "transformer.h.{}.ln_1",
    "blocks.post_attention_norm": "transformer.h.{}.ln_2",
    "blocks.attention.qkv_proj": "transformer.h.{}.attn.c_attn",
    "blocks.attention.o_proj": "transformer.h.{}.attn.c_proj",
    "blocks.mlp.up_proj": "transformer.h.{}.mlp.c_fc",
    "blocks.mlp.down_proj": "transformer.h.{}.mlp.c_proj",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_BUFFERS = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")
"""What old checkpoints hold beside parameters: frequencies, and GPT-2's causal masks."""


def entries(config: DecoderConfig) -> list[Entry]:
    """All parameters of a decoder, by path.

    Raises `ValueError` for one that checkpoints of that `model_type` do not have.
    """
    kind = config.model_type
    names = _GPT2 if kind == "gpt2" else _GEMMA if kind.startswith("gemma") else _LLAMA
    return entries_of(empty(config), names, as_stored=("blocks",) if kind == "gpt2" else ())


def entries_of(shapes: PyTree, names: Mapping[str, str], *, as_stored: tuple = ()) -> list[Entry]:
    """The entries of nested dictionaries of shapes, given the names of their modules.

    A name that ends with * stands for all below it. Kernels are transposed, but for those under
    the keys `as_stored`.
    """
    found = []
    for keys, leaf in jax.tree.flatten_with_path(shapes)[0]:
        path = tuple(key.key for key in keys)
        module, last = ".".join(path[:-1]), _LEAVES.get(path[-1])
        if name := names.get(".".join(path)):
            pass
        elif name := names.get(module):
            name = f"{name}.{last}"
        elif name := names.get(".".join([*path[:-2], "*"])):
            name = f"{name[:-1]}{path[-2]}.{last}"
        else:
            raise ValueError(f"a checkpoint of this model_type has no {'.'.join(path)}.")
        layers, shape = (leaf.shape[0], leaf.shape[1:]) if "{}" in name else (None, leaf.shape)
        transposed = path[-1] == "kernel" and path[0] not in as_stored
        stored = tuple(shape[::-1] if transposed else shape)
        found.append(Entry(name, path, stored, layers, transposed))
    return found


def load_tensors(
    config: DecoderConfig,
    tensors: Mapping[str, Reader],
    *,
    dtype: Any = np.float32,
    keep: Keep = np.asarray,
    source: str = "checkpoint",
) -> PyTree:
    """The parameters of a decoder, for `from_params`, out of tensors by their names.

    Each tensor is read once, and each parameter is handed to `keep` as soon as it is whole. Names
    may lack the prefix of the model without its head (`model.`, `transformer.`). Where the head is
    tied, an `lm_head.weight` must equal the embedding; buffers of old checkpoints are passed over.
    Raises `ValueError`, naming `source`, the tensor and what was expected, for a tensor that is
    missing, not known, or of another shape.
    """
    parts = entries(config)
    params = load_entries(parts, _renamed(parts, tensors), dtype=dtype, keep=keep, source=source)
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        head = np.asarray(tensors["lm_head.weight"]()).astype(dtype)
        if not np.array_equal(head, params["embedding"]):
            raise ValueError(
                f"{source}: lm_head.weight: expected the embedding, as tie_word_embeddings is "
                "true, got other values; set tie_word_embeddings to false to use them."
            )
    return params


def load_entries(
    parts: list[Entry], tensors: Mapping[str, Reader], *, dtype: Any, keep: Keep, source: str
) -> PyTree:
    """Nested dictionaries of what the entries name, as `load_tensors` says."""
    wanted = {name: part for part in parts for name in _names(part)}
    if missing := sorted(set(wanted) - set(tensors)):
        raise ValueError(f"{source}: expected {_some(missing, wanted)}, which it lacks.")
    if extra := sorted(set(tensors) - set(wanted)):
        raise ValueError(f"{source}: expected no {_some(extra)}, which the model has no place for.")
    params: dict[str, Any] = {}

    def read(name: str, part: Entry) -> np.ndarray:
        value = np.asarray(tensors[name]())
        if value.shape != part.shape:
            raise ValueError(f"{source}: {name}: expected shape {part.shape}, got {value.shape}.")
        return value.T if part.transposed else value

    # the largest first: while `keep` copies it there is little else in memory
    for part in sorted(parts, key=lambda part: -np.prod(part.shape) * (part.layers or 1)):
        inner = part.shape[::-1] if part.transposed else part.shape
        shape = inner if part.layers is None else (part.layers, *inner)
        whole = np.empty(shape, dtype)
        for index, name in enumerate(_names(part)):
            whole[... if part.layers is None else index] = read(name, part)
        place = params
        for key in part.path[:-1]:
            place = place.setdefault(key, {})
        place[part.path[-1]] = keep(whole)
    return params


def hf_tensors(config: DecoderConfig, params: PyTree) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, contiguous: what `load_tensors` reads back.

    A tied head is left out, as `transformers` does. Works for anything of the parameters'
    structure, gradients too.
    """
    return write_entries(entries(config), params)


def write_entries(parts: list[Entry], params: PyTree) -> dict[str, np.ndarray]:
    """The inverse of `load_entries`."""
    written = {}
    for part in parts:
        value = params
        for key in part.path:
            value = value[key]
        for index, name in enumerate(_names(part)):
            one = np.asarray(value if part.layers is None else value[index])
            written[name] = np.ascontiguousarray(one.T if part.transposed else one)
    return written


def _names(part: Entry) -> list[str]:
    if part.layers is None:
        return [part.name]
    return [part.name.format(layer) for layer in range(part.layers)]


def _renamed(parts: list[Entry], tensors: Mapping[str, Reader]) -> dict[str, Reader]:
    """Without buffers and a tied head, and with the prefix that a headless model leaves out."""
    heads = {part.name for part in parts if part.path[0] == "head"}
    prefix = parts[0].name.split(".")[0] + "."
    bare = not any(name.startswith(prefix) for name in tensors)
    return {
        name if name in heads or not bare else prefix + name: read
        for name, read in tensors.items()
        if not _BUFFERS.search(name) and (name in heads or name != "lm_head.weight")
    }


def _some(names: list[str], known: Mapping[str, Entry] | None = None) -> str:
    shown = [f"{name} {known[name].shape}" if known else name for name in names[:3]]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(shown)}{rest}"
