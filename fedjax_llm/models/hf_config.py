"""Reading and writing the `config.json` of a decoder."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

from fedjax_compression.checks import check_kind

from .config import MOST_LAYERS, Activation, DecoderConfig, LayerType, check
from .hf_families import ARCHITECTURES, DEFAULTS, FAMILIES, ONLY, UNKNOWN
from .hf_rope import rope_from, rope_to
from .hf_values import SIZES, Values, check_only, real, whole, wrong


def config_from(
    values: Values, *, dtype: Literal["float32", "bfloat16"] = "float32", remat: bool = False
) -> DecoderConfig:
    """Read the decoder that a `config.json` describes, in the layouts of transformers 4 and 5.

    Dropout, token ids and keys that only training or generation use are ignored; the model has no
    dropout.

    Args:
        values: The parsed `config.json`.
        dtype: Type of activations and products, "float32" (the default) or "bfloat16". The file's
            `torch_dtype` only says how the tensors are stored and is ignored.
        remat: Recompute whole blocks in the backward pass; False by default.

    Returns:
        The decoder's config.

    Raises:
        TypeError: `values` are not a mapping.
        ValueError: A field is missing or its value is not supported, such as the family, the rope
            type or the activation; the message names the field.

    Example:
        >>> from fedjax_llm.models import DecoderConfig, config_from, config_to
        >>> values = config_to(DecoderConfig(hidden_size=32))
        >>> config_from(values) == DecoderConfig(hidden_size=32)
        True

    """
    check_kind(
        values,
        Mapping,
        who="config_from",
        name="values",
        expected="the mapping in a config.json",
        remedy="json.loads or open_model_files(place).config gives it",
    )
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise wrong("model_type", f"one of {', '.join(FAMILIES)}", model_type)
    family = FAMILIES[model_type]
    check_only(values, {**ONLY, **family.only})
    known = {**DEFAULTS, **family.defaults, **values}
    found: dict[str, Any] = {}
    for kind, fields in _READ.items():
        for field in fields:
            key = family.keys.get(field, field)
            if field in family.fixed:
                continue
            if known.get(key) is not None:
                found[field] = _read(key, known[key], kind)
            elif key in values and field not in (*SIZES, *_MAY_BE_NULL):
                raise wrong(key, _KINDS[kind], None)
    for field in SIZES:
        if field not in found and not (field == "intermediate_size" and model_type == "gpt2"):
            raise wrong(family.keys.get(field, field), "a whole number", None)
    found.setdefault("intermediate_size", 4 * found["hidden_size"])
    found.setdefault("num_key_value_heads", found["num_attention_heads"])
    act = family.keys.get("hidden_act", "hidden_act")
    found["hidden_act"] = known[act]
    if known[act] not in get_args(Activation):
        raise wrong(act, f"one of {', '.join(get_args(Activation))}", known[act])
    if "attention_bias" not in family.fixed:
        biased = _read("attention_bias", known.get("attention_bias") or False, bool)
        found["attention_bias"] = "all" if biased else "none"
    if "position_embeddings" not in family.fixed:
        found |= rope_from(
            values,
            longest=found["max_position_embeddings"],
            nested=model_type == "gemma3_text",
        )
    found |= _window(model_type, known, found["num_hidden_layers"])
    found |= {**family.fixed, "model_type": model_type}
    config = DecoderConfig(**found, dtype=dtype, remat=remat)
    check(config)
    return _canonical(config)


def config_to(config: DecoderConfig) -> dict[str, Any]:
    """Write the `config.json` of a decoder, for transformers 4 and 5 alike.

    `config_from` reads it back as a config of the same decoder.

    Args:
        config: The decoder's config.

    Returns:
        The mapping to write as JSON.

    Raises:
        TypeError: `config` is not a `DecoderConfig`.
        ValueError: A value of `config` is out of range, or no model of its `model_type` has this
            structure; the message names the fields.

    Example:
        >>> from fedjax_llm.models import DecoderConfig, config_to
        >>> values = config_to(DecoderConfig(hidden_size=32))
        >>> values["architectures"], values["hidden_size"], values["head_dim"]
        (['LlamaForCausalLM'], 32, 8)

    """
    check_kind(config, DecoderConfig, who="config_to", name="config", expected="a DecoderConfig")
    check(config)
    config, family = _canonical(config), FAMILIES[config.model_type]
    values: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        "hidden_act": config.hidden_act,
    }
    for field in sum(_READ.values(), ()):
        values[field] = getattr(config, field)
    values["head_dim"] = config.head_size
    scalar = config.query_pre_attn_scalar or config.head_size
    values["query_pre_attn_scalar"] = int(scalar) if scalar == int(scalar) else scalar
    values["attention_bias"] = config.attention_bias == "all"
    values["sliding_window"] = config.sliding_window
    values |= rope_to(config)
    if config.model_type in ("qwen2", "qwen3"):
        slides = config.sliding_window is not None
        values |= {"use_sliding_window": slides, "max_window_layers": config.num_hidden_layers}
    if config.model_type not in ("llama", "mistral", "gpt2"):
        kinds: tuple[LayerType, LayerType] = ("full_attention", "sliding_attention")
        values["layer_types"] = [kinds[slides] for slides in config.sliding]
    for field in UNKNOWN[config.model_type]:
        values.pop(field, None)
    values = {family.keys.get(field, field): value for field, value in values.items()}
    back = config_from(values, dtype=config.dtype, remat=config.remat)
    differ = [
        f"{field.name}: expected {expected!r} for model_type {config.model_type!r}, got {got!r}"
        for field in dataclasses.fields(config)
        if (expected := getattr(back, field.name)) != (got := getattr(config, field.name))
    ]
    if differ:
        raise ValueError(f"config_to: {'; '.join(differ)}.")
    return values


_READ: dict[type, tuple[str, ...]] = {
    int: (*SIZES, "num_key_value_heads", "head_dim", "max_position_embeddings"),
    float: (
        "rms_norm_eps",
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    ),
    bool: ("tie_word_embeddings", "mlp_bias"),
}

_MAY_BE_NULL = (
    *("num_key_value_heads", "head_dim"),
    *("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"),
)
"""Fields for which null has a meaning of its own; elsewhere it would hide the family's default."""
_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _read(key: str, value: Any, kind: type) -> Any:
    if kind is int:
        layers = key in ("num_hidden_layers", "n_layer")
        return whole(key, value, **({"at_most": MOST_LAYERS} if layers else {}))
    if kind is float:
        return real(key, value, above=0)
    if not isinstance(value, bool):
        raise wrong(key, "true or false", value)
    return value


def _window(model_type: str, known: Values, layers: int) -> dict[str, Any]:
    """Read the window, and which layers have it."""
    if model_type in ("llama", "gpt2"):
        return {}
    qwen, kinds = model_type.startswith("qwen"), known.get("layer_types")
    if kinds is not None and not (
        isinstance(kinds, list | tuple) and all(isinstance(kind, str) for kind in kinds)
    ):
        raise wrong("layer_types", "a list of names", kinds)
    window = None if qwen and not known.get("use_sliding_window") else known.get("sliding_window")
    if window is None:
        if kinds and "sliding_attention" in kinds:
            expected = "a whole number, as layer_types has sliding layers"
            raise wrong("sliding_window", expected, window)
        return {}
    window = _read("sliding_window", window, int)
    if model_type == "mistral":
        return {"sliding_window": window}
    if kinds is None:
        full_first = real("max_window_layers", known.get("max_window_layers", 28))
        pattern = known.get("sliding_window_pattern", known.get("_sliding_window_pattern", 6))
        pattern = whole("sliding_window_pattern", pattern)
        every = 2 if model_type == "gemma2" else pattern
        slides = [i >= full_first if qwen else (i + 1) % every > 0 for i in range(layers)]
        kinds = ["sliding_attention" if each else "full_attention" for each in slides]
    return {"sliding_window": window, "layer_types": tuple(kinds)}


def _canonical(config: DecoderConfig) -> DecoderConfig:
    """The same decoder in a unique form: fields that state a default are reset to None or ()."""
    change: dict[str, Any] = {}
    if config.head_dim == config.hidden_size / config.num_attention_heads:
        change["head_dim"] = None
    if config.query_pre_attn_scalar == config.head_size:
        change["query_pre_attn_scalar"] = None
    if not any(config.sliding):
        change |= {"layer_types": (), "sliding_window": None}
    elif all(config.sliding):
        change["layer_types"] = ()
    return dataclasses.replace(config, **change)
