"""BERT's `config.json` and tensors, by their Hugging Face names, read and written strictly."""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from flax import nnx
from jaxtyping import PyTree

from .config import Activation
from .encoder import Encoder, EncoderConfig
from .hf_tensors import Entry, Keep, Reader, entries_of, load_entries, write_entries
from .hf_values import SIZES, Values, check_only, wrong
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
_PASSED_OVER = re.compile(r"^cls\.|embeddings\.position_ids$")
"""Heads of pretraining, and a buffer."""
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
    """The encoder that a BERT's `config.json` describes; whether it has a pooler is not said there.

    Raises `ValueError` naming the field, what was expected and what was got.
    """
    check_only({"model_type": None, **values}, _ONLY)
    found: dict[str, Any] = {}
    for name in _SIZES:
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise wrong(name, "a whole number above 0", value)
        found[name] = value
    epsilon = values.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not epsilon > 0:
        raise wrong("layer_norm_eps", "above 0", epsilon)
    found["layer_norm_eps"] = epsilon
    act = values.get("hidden_act", "gelu")
    return EncoderConfig(**found, hidden_act=act, pooler=pooler, dtype=dtype, remat=remat)


def encoder_config_to(config: EncoderConfig, *, labels: int | None = None) -> dict[str, Any]:
    """The `config.json` of an encoder, or of a classifier with so many labels:
    `encoder_config_from` makes the same of it.
    """
    values = {name: getattr(config, name) for name in (*_SIZES, "hidden_act", "layer_norm_eps")}
    values |= {"architectures": ["BertModel"], "model_type": "bert"}
    if labels is not None:
        values["architectures"] = ["BertForSequenceClassification"]
        values["id2label"] = {str(i): f"LABEL_{i}" for i in range(labels)}
        values["label2id"] = {f"LABEL_{i}": i for i in range(labels)}
    return values


def encoder_entries(config: EncoderConfig, *, labels: int | None = None) -> list[Entry]:
    """All parameters of an encoder, or of a classifier with so many labels."""
    parts = entries_of(shapes(lambda: Encoder(config, rngs=nnx.Rngs(0))), _NAMES)
    if labels is None:
        return parts
    kernel = ("classifier", "kernel")
    return [
        *(p._replace(name=f"bert.{p.name}", path=("encoder", *p.path)) for p in parts),
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
    source: str = "checkpoint",
) -> PyTree:
    """The parameters of an `Encoder`, or with `labels` those of a fine-tuned `Classifier`.

    Names may carry the prefix `bert.` or not, and a norm's may be gamma and beta; heads of
    pretraining (`cls.`) are passed over.
    Raises `ValueError`, naming `source`, the tensor and what was expected, for a tensor that is
    missing, not known, or of another shape.
    """
    parts = encoder_entries(config, labels=labels)
    prefix = "" if labels is None else "bert."
    named = {}
    for name, read in tensors.items():
        new = name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias")
        if not _PASSED_OVER.search(new):
            named[new if new.startswith("classifier.") else prefix + new] = read
    return load_entries(parts, named, dtype=dtype, keep=keep, source=source)


def hf_encoder_tensors(
    config: EncoderConfig, params: PyTree, *, labels: int | None = None
) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, contiguous: what `load_encoder` reads back."""
    return write_entries(encoder_entries(config, labels=labels), params)
