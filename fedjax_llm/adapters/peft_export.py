"""Writing a trained adapter in the format of Hugging Face's `peft`."""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..models import Classifier, Decoder
from .ia3 import Scaled
from .low_rank import Directed, LowRank
from .peft_files import HEAD, PREFIX, PROMPT, write_adapter
from .targets import Projection, projections

Written = tuple[dict[str, Any], dict[str, np.ndarray]]
"""A config and tensors by name."""


def export_adapter(
    folder: str | os.PathLike[str], model: Any, *, base_model: str | None = None
) -> None:
    """Write a model's LoRA, rsLoRA, DoRA, IA3, prompt or prefix as a folder that `peft` loads.

    The folder gets `adapter_config.json` and `adapter_model.safetensors`, in float32. Alpha
    is recovered from the scale and rounded to 5 decimals. Ranks and alphas that differ between
    layers go into `rank_pattern` and `alpha_pattern`. A `Classifier`'s head is written too. Files
    of an earlier adapter are replaced; a reader never finds a mixture of two adapters.

    Args:
        folder: Where to write; made if it does not exist.
        model: A model with an adapter, from `task.model(params, frozen)` or
            `adapted.merge(params, frozen)`.
        base_model: Folder, or name on the hub, of the model that the adapter is for. `peft` uses
            it to find the base. Default: none is recorded.

    Raises:
        TypeError: If `model` is not a `Decoder`, an `Encoder` or a `Classifier`.
        ValueError: For a model with no adapter, with several kinds, or with one that `peft` has no
            format for, and for a classifier of mean vectors, which `transformers` does not have.
            Nothing is written then.

    Example:
        >>> import os, tempfile
        >>> import jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import export_adapter, lora
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=lora(rank=2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_adapter(folder, task.model(task.params, task.frozen))
        ...     sorted(os.listdir(folder))
        ['adapter_config.json', 'adapter_model.safetensors']

    """
    write_adapter(folder, *adapter_files(model, base_model=base_model))


def adapter_files(model: Any, *, base_model: str | None = None) -> Written:
    """Make the config and the tensors that `export_adapter` writes; the arguments are its own."""
    adapted = [p for p in projections(model, who="export_adapter") if p.module.adapter is not None]
    kinds = {_kind(projection) for projection in adapted}
    if isinstance(model, Decoder):
        kinds |= {"prompt"} if model.prompt is not None else set()
        kinds |= {"prefix"} if model.blocks.attention.prefix is not None else set()
    if isinstance(model, Classifier) and model.pooling != "first":
        raise ValueError(
            'export_adapter: model: expected a classifier of pooling="first", as transformers has, '
            f'got pooling="{model.pooling}".'
        )
    if len(kinds) != 1 or not kinds <= {"LowRank", "Directed", "Scaled", "prompt", "prefix"}:
        raise ValueError(
            "export_adapter: model: expected one with one kind of adapter, of LoRA, DoRA, IA3, "
            f"prompt or prefix, got {', '.join(sorted(kinds)) or 'none'}."
        )
    match kinds.pop():
        case "prompt":
            config, tensors = _prompt(model)
        case "prefix":
            config, tensors = _prefix(model)
        case "Scaled":
            config, tensors = _ia3(adapted)
        case _:
            config, tensors = _lora(adapted)
    config |= {"base_model_name_or_path": base_model, "inference_mode": True, "task_type": None}
    if isinstance(model, Decoder):
        config["task_type"] = "CAUSAL_LM"
    if isinstance(model, Classifier):
        config |= {"task_type": "SEQ_CLS", "modules_to_save": [HEAD]}
        head = model.classifier
        assert head.bias is not None  # noqa: S101
        tensors[f"{PREFIX}{HEAD}.weight"] = np.ascontiguousarray(head.weights(jnp.float32).T)
        tensors[f"{PREFIX}{HEAD}.bias"] = np.asarray(head.bias[...], np.float32)
    return config, tensors


def _kind(projection: Projection) -> str:
    return type(projection.module.adapter).__name__


def _lora(adapted: Sequence[Projection]) -> Written:
    tensors, ranks, alphas = {}, {}, {}
    for projection in adapted:
        low = projection.module.adapter
        assert isinstance(low, LowRank)  # noqa: S101
        a, b = (np.asarray(leaf[...], np.float32) for leaf in (low.a, low.b))
        scales = np.broadcast_to(np.asarray(low.scale_of_layers()), len(projection.names))
        for layer, (name, rank) in enumerate(zip(projection.names, low.ranks, strict=True)):
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
    first: Any = adapted[0].module.adapter
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "target_modules": _modules(adapted, set(ranks)),
        "use_rslora": first.stabilised,
        "use_dora": isinstance(first, Directed),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": _fan_in_fan_out(adapted),
    }
    return config, tensors


def _ia3(adapted: Sequence[Projection]) -> Written:
    tensors = {}
    for projection in adapted:
        scaled = projection.module.adapter
        assert isinstance(scaled, Scaled)  # noqa: S101
        for name, scale in zip(projection.names, np.asarray(scaled.scale[...]), strict=True):
            shape = (1, -1) if scaled.of_inputs else (-1, 1)
            tensors[f"{PREFIX}{name}.ia3_l"] = scale.reshape(shape)
    inner = [projection for projection in adapted if projection.module.adapter.of_inputs]  # type: ignore[union-attr]
    config = {
        "peft_type": "IA3",
        "target_modules": _modules(adapted),
        "feedforward_modules": _modules(inner),
        "fan_in_fan_out": _fan_in_fan_out(adapted),
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


def _modules(adapted: Sequence[Projection], included: set[str] | None = None) -> list[str]:
    """The shortest module names: without the layer where all layers are included."""
    found = []
    for projection in adapted:
        names = [name for name in projection.names if included is None or name in included]
        if len(names) == len(projection.names) > 1:
            found.append(names[0].split(".0.", 1)[1])
        else:
            found += names
    return found


def _fan_in_fan_out(adapted: Sequence[Projection]) -> bool:
    """Whether the checkpoint stores weights as [inputs, outputs], as GPT-2 does."""
    return adapted[0].names[0].startswith("transformer.h.")
