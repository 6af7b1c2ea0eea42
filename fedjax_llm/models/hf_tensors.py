"""Reading and writing parameters under their Hugging Face tensor names, strictly."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from fedjax_compression.checks import check_function, check_kind
from jaxtyping import PyTree

from .config import DecoderConfig
from .decoder import empty

Reader = Callable[[], Any]
"""`() -> array`: reads one tensor."""
Keep = Callable[[np.ndarray], Any]
"""`(parameter) -> stored`: stores a finished parameter, such as by copying it to a device."""


class Entry(NamedTuple):
    """One parameter of a module, and the tensor, or one tensor per layer, that stores it.

    Attributes:
        name: Tensor name, with {} for the layer's number if there is one tensor per layer.
        path: Keys into the nested dictionaries of parameters.
        shape: Shape of one stored tensor.
        layers: Number of layers stacked in the parameter; None for a parameter outside the blocks.
        transposed: True if the tensor is stored as [out, in], as in torch's Linear; GPT-2 stores
            [in, out].

    """

    name: str
    path: tuple[str, ...]
    shape: tuple[int, ...]
    layers: int | None
    transposed: bool


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
"""Buffers in old model files, which are no parameters: frequencies and GPT-2's causal masks."""


def entries(config: DecoderConfig) -> list[Entry]:
    """List the parameters of a decoder with their tensors.

    Raises `ValueError` for a parameter that no model of that `model_type` has.
    """
    kind = config.model_type
    names = _GPT2 if kind == "gpt2" else _GEMMA if kind.startswith("gemma") else _LLAMA
    return entries_of(empty(config), names, as_stored=("blocks",) if kind == "gpt2" else ())


def entries_of(shapes: PyTree, names: Mapping[str, str], *, as_stored: tuple = ()) -> list[Entry]:
    """List the entries of nested dictionaries of shapes.

    Args:
        shapes: Shapes of the parameters.
        names: Tensor name of each module or parameter path; a key that ends with * matches every
            module below it.
        as_stored: Top-level keys whose kernels are not transposed; none by default.

    """
    listed = []
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
            raise ValueError(
                "DecoderConfig: model_type: expected a family whose models have the parameter "
                f"{'.'.join(path)}, got one without."
            )
        layers, shape = (leaf.shape[0], leaf.shape[1:]) if "{}" in name else (None, leaf.shape)
        transposed = path[-1] == "kernel" and path[0] not in as_stored
        stored = tuple(shape[::-1] if transposed else shape)
        listed.append(Entry(name, path, stored, layers, transposed))
    return listed


def load_tensors(
    config: DecoderConfig,
    tensors: Mapping[str, Reader],
    *,
    dtype: Any = np.float32,
    keep: Keep = np.asarray,
    source: str = "model files",
) -> PyTree:
    """Build the parameters of a decoder from named tensors.

    Every tensor must have its parameter and every parameter its tensors. Three things are
    tolerated: names without the prefix `model.` or `transformer.`, as files of a model without
    its head have them; an `lm_head.weight` equal to the embedding where the head is tied; and
    the buffers of old files, which are ignored.

    Each tensor is read once, and each parameter is passed to `keep` as soon as it is complete.
    Memory: what `keep` returns, and the largest parameter.

    Args:
        config: The decoder's config.
        tensors: For each Hugging Face name, a function `() -> array` that reads the tensor.
        dtype: Type of the parameters; float32 by default.
        keep: `(parameter) -> stored`, such as a copy to a device; a NumPy array by default.
        source: Name of the files in error messages.

    Returns:
        Nested dictionaries of what `keep` returned, for `from_params`.

    Raises:
        TypeError: `config` is not a `DecoderConfig`, or `tensors` are not a mapping to functions.
        ValueError: A tensor is missing, unknown or of another shape; the message names it.

    Example:
        >>> from flax import nnx
        >>> from fedjax_llm.models import Decoder, DecoderConfig, hf_tensors, load_tensors
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> tensors = hf_tensors(config, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        >>> readers = {name: lambda value=value: value for name, value in tensors.items()}
        >>> params = load_tensors(config, readers)
        >>> params["blocks"]["mlp"]["up_proj"]["kernel"].shape
        (2, 8, 172)

    """
    check_kind(config, DecoderConfig, who="load_tensors", name="config", expected="a DecoderConfig")
    check_readers(tensors, who="load_tensors")
    listed = entries(config)
    params = load_entries(listed, _renamed(listed, tensors), dtype=dtype, keep=keep, source=source)
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        head = np.asarray(tensors["lm_head.weight"]()).astype(dtype)
        if not np.array_equal(head, params["embedding"]):
            raise ValueError(
                f"{source}: lm_head.weight: expected the embedding's values, as "
                "tie_word_embeddings is true, got others; set tie_word_embeddings to false to use "
                "them."
            )
    return params


def check_readers(tensors: Any, *, who: str) -> None:
    """Raise `TypeError` unless tensors are a mapping from names to functions."""
    check_kind(
        tensors,
        Mapping,
        who=who,
        name="tensors",
        expected="a mapping from tensor names to functions () -> array",
    )
    for name, read in tensors.items():
        check_function(read, who=who, name=f"tensors[{name!r}]", signature="() -> array")


def load_entries(
    listed: list[Entry], tensors: Mapping[str, Reader], *, dtype: Any, keep: Keep, source: str
) -> PyTree:
    """Read the parameters that the entries list into nested dictionaries, as in `load_tensors`."""
    wanted = {name: entry for entry in listed for name in _names(entry)}
    if missing := sorted(set(wanted) - set(tensors)):
        raise ValueError(f"{source}: tensors: expected {_some(missing, wanted)}, got none.")
    if extra := sorted(set(tensors) - set(wanted)):
        raise ValueError(
            f"{source}: tensors: expected only those of the model, got {_some(extra)}."
        )
    params: dict[str, Any] = {}

    def read(name: str, entry: Entry) -> np.ndarray:
        value = np.asarray(tensors[name]())
        if value.shape != entry.shape:
            raise ValueError(f"{source}: {name}: expected shape {entry.shape}, got {value.shape}.")
        return value.T if entry.transposed else value

    # the largest first: while `keep` copies it, little else is in memory
    for entry in sorted(listed, key=lambda entry: -np.prod(entry.shape) * (entry.layers or 1)):
        inner = entry.shape[::-1] if entry.transposed else entry.shape
        shape = inner if entry.layers is None else (entry.layers, *inner)
        first, *others = _names(entry)
        value = read(first, entry)  # the file has as much, so that there is memory for it
        whole = np.empty(shape, dtype)
        whole[... if entry.layers is None else 0] = value
        del value
        for index, name in enumerate(others, start=1):
            whole[index] = read(name, entry)
        branch = params
        for key in entry.path[:-1]:
            branch = branch.setdefault(key, {})
        branch[entry.path[-1]] = keep(whole)
    return params


def hf_tensors(config: DecoderConfig, params: PyTree) -> dict[str, np.ndarray]:
    """Convert the parameters of a decoder to named tensors, which `load_tensors` reads back.

    A tied head is left out, as in `transformers`. It also converts other pytrees in the structure
    of the parameters, such as gradients.

    Args:
        config: The decoder's config.
        params: Nested dictionaries of arrays.

    Returns:
        Contiguous arrays by Hugging Face name, one per layer for the blocks.

    Raises:
        TypeError: `config` is not a `DecoderConfig`, or `params` are not a mapping.
        ValueError: A value of `config` is out of range, or no model of its `model_type` has these
            parameters.

    Example:
        >>> from flax import nnx
        >>> from fedjax_llm.models import Decoder, DecoderConfig, hf_tensors
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> tensors = hf_tensors(config, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        >>> tensors["model.layers.0.mlp.up_proj.weight"].shape
        (172, 8)

    """
    check_kind(config, DecoderConfig, who="hf_tensors", name="config", expected="a DecoderConfig")
    check_params(params, who="hf_tensors")
    return write_entries(entries(config), params)


def check_params(params: Any, *, who: str) -> None:
    """Raise `TypeError` unless parameters are a mapping."""
    if not isinstance(params, Mapping):
        raise TypeError(
            f"{who}: params: expected nested dictionaries of arrays, got a "
            f"{type(params).__name__}; nnx.to_pure_dict(nnx.state(model, nnx.Param)) gives those "
            "of a model."
        )


def write_entries(listed: list[Entry], params: PyTree) -> dict[str, np.ndarray]:
    """Convert parameters to named tensors; the inverse of `load_entries`."""
    written = {}
    for entry in listed:
        value = params
        for key in entry.path:
            value = value[key]
        for index, name in enumerate(_names(entry)):
            tensor = np.asarray(value if entry.layers is None else value[index])
            written[name] = np.ascontiguousarray(tensor.T if entry.transposed else tensor)
    return written


def _names(entry: Entry) -> list[str]:
    if entry.layers is None:
        return [entry.name]
    return [entry.name.format(layer) for layer in range(entry.layers)]


def _renamed(listed: list[Entry], tensors: Mapping[str, Reader]) -> dict[str, Reader]:
    """Drop buffers and a tied head, and add the prefix that files without a head leave out."""
    heads = {entry.name for entry in listed if entry.path[0] == "head"}
    prefix = listed[0].name.split(".")[0] + "."
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
