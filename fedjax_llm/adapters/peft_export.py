"""An adapter's parameters as `peft` reads them."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..models import Decoder
from .ia3 import Scaled
from .low_rank import Directed, LowRank
from .peft_files import PREFIX, PROMPT, write_adapter
from .targets import Product, products

Written = tuple[dict[str, Any], dict[str, np.ndarray]]


def export_adapter(
    folder: str | os.PathLike[str], model: Any, *, base_model: str | None = None
) -> None:
    """Write a model's LoRA, rsLoRA, DoRA, IA3, prompt or prefix as a folder that `peft` loads.

    `model` is what `Task.model` or `Adapted.merge` gives. `base_model` is the path or the name on
    the hub of the model that the adapter is for, which `peft` then finds by itself. Both files are
    written whole or not at all; what they held before is replaced.
    Layers of different rank and alpha go into `rank_pattern` and `alpha_pattern`.
    Raises `ValueError` for a model with no adapter, with several kinds, or with one that `peft` has
    no format for.
    """
    there = [product for product in products(model) if product.module.adapter is not None]
    kinds = {_kind(product) for product in there}
    if isinstance(model, Decoder):
        kinds |= {"prompt"} if model.prompt is not None else set()
        kinds |= {"prefix"} if model.blocks.attention.prefix is not None else set()
    if len(kinds) != 1 or not kinds <= {"LowRank", "Directed", "Scaled", "prompt", "prefix"}:
        raise ValueError(
            "export_adapter: expected a model with LoRA, DoRA, IA3, a prompt or a prefix, one of "
            f"them, got {', '.join(sorted(kinds)) or 'none'}."
        )
    match kinds.pop():
        case "prompt":
            config, tensors = _prompt(model)
        case "prefix":
            config, tensors = _prefix(model)
        case "Scaled":
            config, tensors = _ia3(there)
        case _:
            config, tensors = _lora(there)
    config |= {
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "task_type": "CAUSAL_LM" if isinstance(model, Decoder) else None,
    }
    write_adapter(folder, config, tensors)


def _kind(product: Product) -> str:
    return type(product.module.adapter).__name__


def _lora(there: Sequence[Product]) -> Written:
    tensors, ranks, alphas = {}, {}, {}
    for product in there:
        low = product.module.adapter
        assert isinstance(low, LowRank)  # noqa: S101
        a, b = (np.asarray(leaf[...], np.float32) for leaf in (low.a, low.b))
        scales = np.broadcast_to(np.asarray(low.scale_of_layers()), len(product.names))
        for layer, (name, rank) in enumerate(zip(product.names, low.ranks, strict=True)):
            if not rank:
                continue
            key = f"{PREFIX}{name}.lora_"
            tensors[f"{key}A.weight"] = np.ascontiguousarray(a[layer][:, :rank].T)
            tensors[f"{key}B.weight"] = np.ascontiguousarray(b[layer][:rank].T)
            if isinstance(low, Directed):
                tensors[f"{key}magnitude_vector"] = np.asarray(low.magnitude[...][layer])
            ranks[name] = rank
            alpha = float(scales[layer]) * (rank**0.5 if low.stabilised else rank)
            alphas[name] = float(np.float32(round(alpha, 5)))
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    first: Any = there[0].module.adapter
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "target_modules": _modules(there, set(ranks)),
        "use_rslora": first.stabilised,
        "use_dora": isinstance(first, Directed),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": _fan_in_fan_out(there),
    }
    return config, tensors


def _ia3(there: Sequence[Product]) -> Written:
    tensors = {}
    for product in there:
        scaled = product.module.adapter
        assert isinstance(scaled, Scaled)  # noqa: S101
        for name, scale in zip(product.names, np.asarray(scaled.scale[...]), strict=True):
            shape = (1, -1) if scaled.of_inputs else (-1, 1)
            tensors[f"{PREFIX}{name}.ia3_l"] = scale.reshape(shape)
    inner = [product for product in there if product.module.adapter.of_inputs]  # type: ignore[union-attr]
    config = {
        "peft_type": "IA3",
        "target_modules": _modules(there),
        "feedforward_modules": _modules(inner),
        "fan_in_fan_out": _fan_in_fan_out(there),
    }
    return config, tensors


def _prompt(model: Decoder) -> Written:
    assert model.prompt is not None  # noqa: S101
    prompt, c = np.asarray(model.prompt[...], np.float32), model.config
    return {
        "peft_type": "PROMPT_TUNING",
        **_virtual(len(prompt), c.num_hidden_layers, c.num_attention_heads, c.hidden_size),
        "prompt_tuning_init": "RANDOM",
    }, {PROMPT: prompt}


def _prefix(model: Decoder) -> Written:
    prefix: Any = model.blocks.attention.prefix
    keys, values = (np.asarray(p[...], np.float32) for p in (prefix.keys, prefix.values))
    layers, tokens, heads, head = keys.shape
    rows = np.stack([keys, values], axis=1).transpose(2, 0, 1, 3, 4).reshape(tokens, -1)
    return {
        "peft_type": "PREFIX_TUNING",
        **_virtual(tokens, layers, heads, heads * head),
        "encoder_hidden_size": heads * head,
        "prefix_projection": False,
    }, {PROMPT: np.ascontiguousarray(rows)}


def _virtual(tokens: int, layers: int, heads: int, width: int) -> dict[str, int]:
    return {
        "num_virtual_tokens": tokens,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": width,
        "num_transformer_submodules": 1,
    }


def _modules(there: Sequence[Product], taken: set[str] | None = None) -> list[str]:
    """Names as short as they may be: without the layer, where all layers are meant."""
    found = []
    for product in there:
        names = [name for name in product.names if taken is None or name in taken]
        if len(names) == len(product.names) > 1:
            found.append(names[0].split(".0.", 1)[1])
        else:
            found += names
    return found


def _fan_in_fan_out(there: Sequence[Product]) -> bool:
    """Whether the base's weights are [in, out], as GPT-2's are."""
    return there[0].names[0].startswith("transformer.h.")
