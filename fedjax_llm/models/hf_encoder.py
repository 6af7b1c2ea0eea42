"""Reading and writing BERT's `config.json` and tensors under their Hugging Face names, strictly."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from fedjax_compression.checks import check_integer, check_kind
from flax import nnx
from jaxtyping import PyTree

from .config import MOST_LAYERS, Activation
from .encoder import Encoder, EncoderConfig, check_encoder
from .hf_tensors import (
    Entry,
    Keep,
    Reader,
    check_params,
    check_readers,
    entries_of,
    load_entries,
    write_entries,
)
from .hf_values import SIZES, Values, check_only, real, whole
from .params import shapes

_LAYER = "encoder.layer.{}."
_NAMES = {
    "embedding": "embeddings.word_embeddings.weight",
    "position_embedding": "embeddings.position_embeddings.weight",
    "type_embedding": "embeddings.token_type_embeddings.weight",
    "embedding_norm": "embeddings.LayerNorm",
    "blocks.attention.q_proj": _LAYER + "attention.self.query",
    "blocks.attention.k_proj": _LAYER + "attention.self.key",
    "blocks.attention.v_proj": _LAYER + "attention.self.value",
    "blocks.attention.o_proj": _LAYER + "attention.output.dense",
    "blocks.attention_norm": _LAYER + "attention.output.LayerNorm",
    "blocks.mlp.up_proj": _LAYER + "intermediate.dense",
    "blocks.mlp.down_proj": _LAYER + "output.dense",
    "blocks.mlp_norm": _LAYER + "output.LayerNorm",
    "pooler": "pooler.dense",
}
_IGNORED = re.compile(r"^cls\.|embeddings\.position_ids$")
"""Pretraining heads, and a buffer."""
_ONLY: dict[str, tuple] = {
    "model_type": ("bert",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
    "hidden_act": get_args(Activation),
}
_SIZES = (*SIZES, "max_position_embeddings", "type_vocab_size")


def encoder_config_from(
    values: Values,
    *,
    pooler: bool = True,
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
) -> EncoderConfig:
    """Read the encoder that BERT's `config.json` describes.

    Args:
        values: The parsed `config.json`.
        pooler: Whether the model has a pooler (the default), which the file does not say.
        dtype: Type of activations and products, "float32" (the default) or "bfloat16".
        remat: Recompute each block in the backward pass; False by default.

    Returns:
        The encoder's config.

    Raises:
        TypeError: `values` are not a mapping.
        ValueError: A field is missing or its value is not supported; the message names it.

    Example:
        >>> from fedjax_llm.models import EncoderConfig, encoder_config_from, encoder_config_to
        >>> values = encoder_config_to(EncoderConfig(hidden_size=32))
        >>> encoder_config_from(values).hidden_size
        32

    """
    check_kind(
        values,
        Mapping,
        who="encoder_config_from",
        name="values",
        expected="the mapping in a config.json",
        remedy="json.loads or open_model_files(place).config gives it",
    )
    check_only({"model_type": None, **values}, _ONLY)
    found: dict[str, Any] = {}
    for name in _SIZES:
        layers = {"at_most": MOST_LAYERS} if name == "num_hidden_layers" else {}
        found[name] = whole(name, values.get(name), **layers)
    found["layer_norm_eps"] = real("layer_norm_eps", values.get("layer_norm_eps", 1e-12), above=0)
    act = values.get("hidden_act", "gelu")
    return EncoderConfig(**found, hidden_act=act, pooler=pooler, dtype=dtype, remat=remat)


def encoder_config_to(
    config: EncoderConfig, *, labels: int | None = None, label_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Write the `config.json` of an encoder or a classifier.

    `encoder_config_from` reads it back as the same config, except for `pooler`, `dtype` and
    `remat`, which the file does not hold.

    Args:
        config: The encoder's config.
        labels: Number of labels of a classifier; None (the default) for a plain encoder.
        label_names: Their names in order. Default: LABEL_0, LABEL_1 and so on.

    Returns:
        The mapping to write as JSON.

    Raises:
        TypeError: `config` is not an `EncoderConfig`.
        ValueError: A value of `config`, or `labels`, is out of range; `label_names` are not
            `labels` different ones.

    Example:
        >>> from fedjax_llm.models import EncoderConfig, encoder_config_to
        >>> encoder_config_to(EncoderConfig(), labels=2, label_names=("bad", "good"))["label2id"]
        {'bad': 0, 'good': 1}

    """
    check_encoder(config, who="encoder_config_to")
    _check_labels(labels, who="encoder_config_to")
    if label_names is not None and not len(label_names) == len(set(label_names)) == labels:
        raise ValueError(
            f"encoder_config_to: label_names: expected {labels or 'none without labels'}, each "
            f"once, got {list(label_names)!r}."
        )
    values = {name: getattr(config, name) for name in (*_SIZES, "hidden_act", "layer_norm_eps")}
    values |= {"architectures": ["BertModel"], "model_type": "bert"}
    if labels is not None:
        values["architectures"] = ["BertForSequenceClassification"]
        names = label_names or [f"LABEL_{i}" for i in range(labels)]
        values["id2label"] = {str(i): name for i, name in enumerate(names)}
        values["label2id"] = {name: i for i, name in enumerate(names)}
    return values


def encoder_entries(config: EncoderConfig, *, labels: int | None = None) -> list[Entry]:
    """List the parameters of an encoder, or of a classifier with `labels`, with their tensors."""
    listed = entries_of(shapes(lambda: Encoder(config, rngs=nnx.Rngs(0))), _NAMES)
    if labels is None:
        return listed
    kernel = ("classifier", "kernel")
    return [
        *(e._replace(name=f"bert.{e.name}", path=("encoder", *e.path)) for e in listed),
        Entry("classifier.weight", kernel, (labels, config.hidden_size), None, True),
        Entry("classifier.bias", ("classifier", "bias"), (labels,), None, False),
    ]


def load_encoder(
    config: EncoderConfig,
    tensors: Mapping[str, Reader],
    *,
    labels: int | None = None,
    dtype: Any = np.float32,
    keep: Keep = np.asarray,
    source: str = "model files",
) -> PyTree:
    """Build the parameters of an `Encoder`, or of a fine-tuned `Classifier`, from named tensors.

    Every tensor must have its parameter and every parameter its tensors. Names may have the prefix
    `bert.` or not, and norms may call their parameters gamma and beta. Pretraining heads (`cls.`)
    and the buffer `position_ids` are ignored.

    Args:
        config: The encoder's config.
        tensors: For each Hugging Face name, a function `() -> array` that reads the tensor.
        labels: Number of labels of a classifier; None (the default) for a plain encoder.
        dtype: Type of the parameters; float32 by default.
        keep: `(parameter) -> stored`, such as a copy to a device; a NumPy array by default.
        source: Name of the files in error messages.

    Returns:
        Nested dictionaries of what `keep` returned, for `filled`.

    Raises:
        TypeError: `config` is not an `EncoderConfig`, or `tensors` are not a mapping to functions.
        ValueError: A tensor is missing, unknown or of another shape; the message names it.

    Example:
        >>> from flax import nnx
        >>> from fedjax_llm.models import Encoder, EncoderConfig, hf_encoder_tensors, load_encoder
        >>> config = EncoderConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=16)
        >>> model = Encoder(config, rngs=nnx.Rngs(0))
        >>> tensors = hf_encoder_tensors(config, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        >>> readers = {name: lambda value=value: value for name, value in tensors.items()}
        >>> load_encoder(config, readers)["embedding"].shape
        (256, 8)

    """
    check_encoder(config, who="load_encoder")
    check_readers(tensors, who="load_encoder")
    _check_labels(labels, who="load_encoder")
    listed = encoder_entries(config, labels=labels)
    prefix = "" if labels is None else "bert."
    named = {}
    for name, read in tensors.items():
        new = name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
        if not _IGNORED.search(new):
            named[new if new.startswith("classifier.") else prefix + new] = read
    return load_entries(listed, named, dtype=dtype, keep=keep, source=source)


def hf_encoder_tensors(
    config: EncoderConfig, params: PyTree, *, labels: int | None = None
) -> dict[str, np.ndarray]:
    """Convert the parameters of an encoder or a classifier to named tensors.

    `load_encoder` reads them back. It also converts other pytrees in the structure of the
    parameters, such as gradients.

    Args:
        config: The encoder's config.
        params: Nested dictionaries of arrays, of an `Encoder`, or of a `Classifier` with `labels`.
        labels: Number of labels of a classifier; None (the default) for a plain encoder.

    Returns:
        Contiguous arrays by Hugging Face name, one per layer for the blocks.

    Raises:
        TypeError: `config` is not an `EncoderConfig`, or `params` are not a mapping.
        ValueError: A value of `config`, or `labels`, is out of range.

    Example:
        >>> from flax import nnx
        >>> from fedjax_llm.models import Encoder, EncoderConfig, hf_encoder_tensors
        >>> config = EncoderConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=16)
        >>> model = Encoder(config, rngs=nnx.Rngs(0))
        >>> tensors = hf_encoder_tensors(config, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        >>> tensors["encoder.layer.0.output.dense.weight"].shape
        (8, 256)

    """
    check_encoder(config, who="hf_encoder_tensors")
    check_params(params, who="hf_encoder_tensors")
    _check_labels(labels, who="hf_encoder_tensors")
    return write_entries(encoder_entries(config, labels=labels), params)


def _check_labels(labels: Any, *, who: str) -> None:
    if labels is not None:
        check_integer(labels, who=who, name="labels", at_least=1)
