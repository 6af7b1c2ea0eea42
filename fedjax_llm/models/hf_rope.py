"""Rotary embeddings in a `config.json`, in the layouts of transformers 4 and 5."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from .config import DecoderConfig, LinearScaling, Llama3Scaling
from .hf_values import Values, real, whole, wrong

_SCALINGS = {"linear": LinearScaling, "llama3": Llama3Scaling}
_TYPES = ("default", *_SCALINGS)


def rope_from(values: Values, *, longest: int, nested: bool = False) -> dict[str, Any]:
    """Read the rotary fields of `DecoderConfig`.

    Version 4 of transformers writes `rope_theta` and `rope_scaling`; version 5 writes
    `rope_parameters`. Gemma 3 (`nested`) has a second set for sliding layers:
    `rope_local_base_freq` in version 4, `sliding_attention` in version 5.

    Args:
        values: The parsed `config.json`.
        longest: max_position_embeddings, the default for the original context of Llama 3 scaling.
        nested: Read the second set for sliding layers; False by default.

    Returns:
        Values for the fields of `DecoderConfig`, by name.

    Raises:
        ValueError: A type is not supported, a factor is missing, or both layouts are present and
            contradict each other.

    """
    theta = _number("rope_theta", values.get("rope_theta"), 1_000_000.0 if nested else 10_000.0)
    old = _layout("rope_scaling", values.get("rope_scaling") or {}, theta, longest)
    if nested:
        local = _number("rope_local_base_freq", values.get("rope_local_base_freq"), 10_000.0)
        old["rope_local_theta"] = local
    given = values.get("rope_parameters")
    if not given:
        return old
    if not isinstance(given, Mapping):
        raise wrong("rope_parameters", "an object", given)
    if nested and ("full_attention" in given or "sliding_attention" in given):
        new = _layout("rope_parameters", given.get("full_attention") or {}, theta, longest)
        plain = given.get("sliding_attention") or {}
        sliding = _layout("rope_parameters", plain, old["rope_local_theta"], longest)
        if sliding["rope_scaling"] is not None:
            raise wrong("rope_parameters", "sliding_attention of type default", plain)
        new["rope_local_theta"] = sliding["rope_theta"]
    else:
        new = _layout("rope_parameters", given, theta, longest)
        if nested:
            new["rope_local_theta"] = old["rope_local_theta"]
    keys = {"rope_theta": "rope_theta", "rope_scaling": "rope_scaling"}
    keys |= {"rope_local_base_freq": "rope_local_theta"} if nested else {}
    for key, field in keys.items():
        if values.get(key) is not None and old[field] != new[field]:
            raise wrong(key, f"{new[field]!r}, as in rope_parameters", values[key])
    return new


def rope_to(config: DecoderConfig) -> dict[str, Any]:
    """Write both layouts: without its own layout, version 4 would use its default theta."""
    if config.position_embeddings != "rotary":
        return {}
    types, given = {kind: name for name, kind in _SCALINGS.items()}, config.rope_scaling
    scaling = None if given is None else {"rope_type": types[type(given)], **asdict(given)}
    flat = {"rope_theta": config.rope_theta, **(scaling or {"rope_type": "default"})}
    both = {"rope_theta": config.rope_theta, "rope_scaling": scaling}
    if config.rope_local_theta is None:
        return {**both, "rope_parameters": flat}
    local = {"rope_theta": config.rope_local_theta, "rope_type": "default"}
    both["rope_local_base_freq"] = config.rope_local_theta
    return {**both, "rope_parameters": {"full_attention": flat, "sliding_attention": local}}


def _layout(name: str, given: Any, theta: float, longest: int) -> dict[str, Any]:
    """Read theta and scaling from one object; `theta` is the default."""
    if not isinstance(given, Mapping):
        raise wrong(name, "an object", given)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in _TYPES:
        raise wrong(f"{name}: rope_type", f"one of {', '.join(_TYPES)}", kind)
    if given.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise wrong(f"{name}: partial_rotary_factor", "1", given["partial_rotary_factor"])
    theta = _number(f"{name}: rope_theta", given.get("rope_theta"), theta)
    if kind == "default":
        return {"rope_theta": theta, "rope_scaling": None}

    def factor(key: str) -> float:
        return _number(f"{name}: {key}", given.get(key), None)

    if kind == "linear":
        return {"rope_theta": theta, "rope_scaling": LinearScaling(factor=factor("factor"))}
    old = given.get("original_max_position_embeddings", longest)
    scaling = Llama3Scaling(
        factor=factor("factor"),
        low_freq_factor=factor("low_freq_factor"),
        high_freq_factor=factor("high_freq_factor"),
        original_max_position_embeddings=whole(f"{name}: original_max_position_embeddings", old),
    )
    if scaling.low_freq_factor >= scaling.high_freq_factor:
        raise wrong(f"{name}: high_freq_factor", "above low_freq_factor", dict(given))
    return {"rope_theta": theta, "rope_scaling": scaling}


def _number(name: str, value: Any, default: float | None) -> float:
    return real(name, default if value is None else value, above=0)
