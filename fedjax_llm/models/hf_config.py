"""A `config.json` of the Hugging Face hub, read and written."""

import dataclasses
from typing import Any, Literal, get_args

from .config import Activation, DecoderConfig, LayerType, check
from .hf_families import ARCHITECTURES, DEFAULTS, FAMILIES, ONLY, UNKNOWN
from .hf_rope import rope_from, rope_to
from .hf_values import SIZES, Values, check_only, wrong


def config_from(
    values: Values, *, dtype: Literal["float32", "bfloat16"] = "float32", remat: bool = False
) -> DecoderConfig:
    """The decoder that a `config.json` describes, in the layouts of transformers 4 and 5.

    `dtype` and `remat` are ours to choose; the file's `torch_dtype` is how it is stored. Dropout,
    token ids and what only training or generation read are passed over: nothing here drops out.
    Raises `ValueError` naming the field, what was expected and what was got, for a family, rope
    type, activation or anything else that we do not do.
    """
    model_type = values.get("model_type")
    if model_type not in FAMILIES:
        raise wrong("model_type", f"one of {', '.join(FAMILIES)}", model_type)
    family = FAMILIES[model_type]
    check_only(values, {**ONLY, **family.only})
    known = {**DEFAULTS, **family.defaults, **values}
    found: dict[str, Any] = {}
    for kind, fields in _READ.items():
        for field in fields:
            key = family.keys.get(field, field)
            if field not in family.made and known.get(key) is not None:
                found[field] = _read(key, known[key], kind)
    for field in SIZES:
        if field not in found and not (field == "intermediate_size" and model_type == "gpt2"):
            raise wrong(family.keys.get(field, field), "a whole number", None)
    found.setdefault("intermediate_size", 4 * found["hidden_size"])
    found.setdefault("num_key_value_heads", found["num_attention_heads"])
    act = family.keys.get("hidden_act", "hidden_act")
    found["hidden_act"] = known[act]
    if known[act] not in get_args(Activation):
        raise wrong(act, f"one of {', '.join(get_args(Activation))}", known[act])
    if "attention_bias" not in family.made:
        biased = _read("attention_bias", known.get("attention_bias") or False, bool)
        found["attention_bias"] = "all" if biased else "none"
    if "position_embeddings" not in family.made:
        found |= rope_from(
            values,
            longest=found["max_position_embeddings"],
            nested=model_type == "gemma3_text",
        )
    found |= _window(model_type, known, found["num_hidden_layers"])
    made = family.made
    config = DecoderConfig(**found, **made, model_type=model_type, dtype=dtype, remat=remat)
    check(config)
    return _canonical(config)


def config_to(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` of a decoder, for readers of transformers 4 and 5 alike.

    Guarantees: `config_from` makes the same decoder of it.
    Raises `ValueError` naming the fields where a model of that `model_type` can not be like this.
    """
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
        f"{field.name} expected {getattr(back, field.name)!r}, got {getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if getattr(back, field.name) != getattr(config, field.name)
    ]
    if differ:
        raise ValueError(f"config_to: no {config.model_type} is like this: {'; '.join(differ)}.")
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


def _read(key: str, value: Any, kind: type) -> Any:
    if kind is bool:
        right = isinstance(value, bool)
    else:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        right = right and (kind is float or value == int(value))
    if not right:
        names = {int: "a whole number", float: "a number", bool: "true or false"}
        raise wrong(key, names[kind], value)
    return kind(value)


def _window(model_type: str, known: Values, layers: int) -> dict[str, Any]:
    """Which layers slide, and how far they see."""
    if model_type in ("llama", "gpt2"):
        return {}
    qwen, kinds = model_type.startswith("qwen"), known.get("layer_types")
    window = None if qwen and not known.get("use_sliding_window") else known.get("sliding_window")
    if window is None:
        if kinds and "sliding_attention" in kinds:
            raise wrong("sliding_window", "a whole number, as layers slide", window)
        return {}
    window = _read("sliding_window", window, int)
    if model_type == "mistral":
        return {"sliding_window": window}
    if kinds is None:
        full_first = known.get("max_window_layers", 28)
        pattern = known.get("sliding_window_pattern", known.get("_sliding_window_pattern", 6))
        every = 2 if model_type == "gemma2" else pattern
        slides = [i >= full_first if qwen else (i + 1) % every > 0 for i in range(layers)]
        kinds = ["sliding_attention" if each else "full_attention" for each in slides]
    return {"sliding_window": window, "layer_types": tuple(kinds)}


def _canonical(config: DecoderConfig) -> DecoderConfig:
    """The same decoder in its one spelling: nothing given that would be so anyway."""
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
