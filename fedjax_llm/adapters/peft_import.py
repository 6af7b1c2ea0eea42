"""Reading an adapter in the format of Hugging Face's `peft`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Key

from ..model_files import LazyTensor
from ..models import Classifier, Decoder
from ..models.layers import Linear
from .contract import Adapted, Adapter, Added
from .ia3 import INNER, Scaled
from .lora import mixed_ranks, shared_scale
from .low_rank import Directed, LowRank, column_norms
from .peft_files import (
    CONFIG,
    HEAD,
    PREFIX,
    PROMPT,
    TENSORS,
    read_adapter,
    read_tensor,
    refuse_others,
)
from .prefix_tuning import Prefix, check_decoder
from .ranks import unpadded
from .targets import by_pattern, projections

_UNCHECKED = """
base_model_name_or_path peft_type task_type inference_mode peft_version revision auto_mapping
fan_in_fan_out target_modules exclude_modules layers_to_transform layers_pattern lora_dropout
megatron_core feedforward_modules r lora_alpha rank_pattern alpha_pattern use_rslora use_dora bias
init_lora_weights init_ia3_weights init_weights qalora_group_size eva_config num_virtual_tokens
num_layers num_attention_heads token_dim num_transformer_submodules encoder_hidden_size
prompt_tuning_init prompt_tuning_init_text tokenizer_name_or_path tokenizer_kwargs
modules_to_save
"""
"""Fields that need no check: read below, implied by the tensors, or about how training began."""
_HEADS = (HEAD, "score")
"""Modules that `peft` saves for any classifier; those of BERT have the first."""
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that do not change the base model."""


def import_adapter(folder: str | os.PathLike[str], *, base_model: str | None = None) -> Adapter:
    """Read a LoRA, rsLoRA, DoRA, IA3, prompt or prefix from a folder that `peft` wrote.

    A classifier's head is read with its adapter. The adapter starts from the values in the file and
    can be trained further. Dropout is not applied. Config and shapes are read at once, values when
    the adapter is attached. The files are not trusted: `read_safetensors` checks all sizes before a
    value is read, and patterns that could take long to match are refused.

    Args:
        folder: The folder with `adapter_config.json` and `adapter_model.safetensors`.
        base_model: Name of the model to adapt, to compare with the base that the config names. No
            check if either is missing; default none.

    Returns:
        The adapter.

    Raises:
        ValueError: Naming file, field or tensor: for malformed files, for a field that asks for
            something that is not supported, and for another base than `base_model`. When attached:
            for a model that lacks a module, or has it in another shape, and for a value that is
            not a finite number in float32.
        TypeError: When attached, if the model is of another kind.

    Example:
        >>> import tempfile
        >>> import jax, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import export_adapter, import_adapter, lora
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=lora(rank=2, targets="q_proj"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_adapter(folder, task.model(task.params, task.frozen))
        ...     again = language_model(config, key=jr.key(0), adapter=import_adapter(folder))
        >>> jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again.params, task.params))
        True

    """
    config, tensors = read_adapter(folder)
    place = Path(folder)
    where = place / CONFIG
    named = config.get("base_model_name_or_path")
    if base_model is not None and named not in (None, "", base_model):
        raise _wrong(where, "base_model_name_or_path", base_model, named)
    for field, given in config.items():
        if field not in _UNCHECKED.split() and given not in (None, False, [], {}, ""):
            raise _wrong(where, field, "no value, as this field is not supported", given)
    if config.get("bias", "none") != "none":
        raise _wrong(where, "bias", "none", config["bias"])
    if not set(config.get("modules_to_save") or ()) <= set(_HEADS):
        expected = f"none, or among {', '.join(_HEADS)}"
        raise _wrong(where, "modules_to_save", expected, config["modules_to_save"])
    match config.get("peft_type"):
        case "LORA":
            return _lora(config, tensors, place)
        case "IA3":
            return _ia3(config, tensors, place / TENSORS)
        case "PROMPT_TUNING":
            return _prompt(tensors, place / TENSORS)
        case "PREFIX_TUNING":
            return _prefix(tensors, place / TENSORS)
        case other:
            raise _wrong(where, "peft_type", "LORA, IA3, PROMPT_TUNING or PREFIX_TUNING", other)


def _lora(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor], place: Path) -> Adapter:
    where, path = place / CONFIG, place / TENSORS
    rank, alpha = config.get("r"), config.get("lora_alpha")
    ranks, alphas = (_patterns(config, f"{what}_pattern", where) for what in ("rank", "alpha"))
    for each in (rank, *ranks.values()):
        if type(each) is not int or not 1 <= each < 2**16:
            raise _wrong(where, "r", "an integer from 1 to 65535", each)
    for each in (alpha, *alphas.values()):
        if type(each) not in (int, float) or not 0 < each < 1e9:
            raise _wrong(where, "lora_alpha", "a number above 0 and below 1e9", each)
    if config.get("init_lora_weights", True) not in _STARTS:
        raise _wrong(
            where,
            "init_lora_weights",
            f"one of {', '.join(map(str, _STARTS))}, which do not change the base model",
            config["init_lora_weights"],
        )
    stabilised, directed = (bool(config.get(f)) for f in ("use_rslora", "use_dora"))
    suffixes = ("A.weight", "B.weight", *(("magnitude_vector",) if directed else ()))

    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        known = _head(config, tensors, model, path)
        for projection in projections(model, who="import_adapter"):
            keys = [f"{PREFIX}{name}.lora_" for name in projection.names]
            adapted = [any(k + suffix in tensors for suffix in suffixes) for k in keys]
            if not any(adapted):
                continue
            known |= {k + suffix for k in keys for suffix in suffixes}
            layer_ranks = [
                by_pattern(ranks, name, rank) if a else 0
                for name, a in _zip(projection.names, adapted)
            ]
            scales = [
                by_pattern(alphas, name, alpha) / (r**0.5 if stabilised else r) if r else 0.0
                for name, r in _zip(projection.names, layer_ranks)
            ]
            projection.module.adapter = _low_rank(
                projection.module, tensors, keys, layer_ranks, scales, directed, stabilised, path
            )
        why = "the model has no such module, or the config asks for no such tensor"
        refuse_others(tensors, known, where=path, why=why)

    def restate(key: Key[Array, ""], model: nnx.Module, adapted: Adapted) -> Adapted:
        return unpadded(adapted, mixed_ranks(model))

    return Adapter(attach, Added, restate)


def _low_rank(
    linear: Linear,
    tensors: Mapping[str, LazyTensor],
    keys: list[str],
    ranks: list[int],
    scales: list[float],
    directed: bool,
    stabilised: bool,
    path: Path,
) -> LowRank:
    kernel = linear.weights(jnp.float32)
    inputs, outputs = kernel.shape[-2:]
    a = np.zeros((len(keys), inputs, max(ranks)), np.float32)
    b = np.zeros((len(keys), max(ranks), outputs), np.float32)
    for layer, (key, rank) in enumerate(_zip(keys, ranks)):
        if rank:
            a[layer, :, :rank] = read_tensor(
                tensors, f"{key}A.weight", (rank, inputs), where=path
            ).T
            b[layer, :rank] = read_tensor(tensors, f"{key}B.weight", (outputs, rank), where=path).T
    settings: dict[str, Any] = {
        "scale": shared_scale(scales),
        "ranks": tuple(ranks),
        "stabilised": stabilised,
    }
    if not directed:
        return LowRank(jnp.asarray(a), jnp.asarray(b), **settings)
    magnitude = np.array(column_norms(kernel))
    for layer, (key, rank) in enumerate(_zip(keys, ranks)):
        if rank:
            magnitude[layer] = read_tensor(
                tensors, f"{key}magnitude_vector", (outputs,), where=path
            )
    return Directed(jnp.asarray(a), jnp.asarray(b), jnp.asarray(magnitude), **settings)


def _ia3(config: Mapping[str, Any], tensors: Mapping[str, LazyTensor], path: Path) -> Adapter:
    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        known = _head(config, tensors, model, path)
        for projection in projections(model, who="import_adapter"):
            names = [f"{PREFIX}{name}.ia3_l" for name in projection.names]
            if not any(name in tensors for name in names):
                continue
            known |= set(names)
            of_inputs = projection.name in INNER
            inputs, outputs = projection.module.weights(jnp.float32).shape[-2:]
            shape = (1, inputs) if of_inputs else (outputs, 1)
            scales = [read_tensor(tensors, name, shape, where=path).reshape(-1) for name in names]
            projection.module.adapter = Scaled(jnp.asarray(np.stack(scales)), of_inputs=of_inputs)
        refuse_others(tensors, known, where=path, why="the model has no such module")

    return Adapter(attach, Added)


def _head(
    config: Mapping[str, Any], tensors: Mapping[str, LazyTensor], model: nnx.Module, path: Path
) -> set[str]:
    """Read a classifier's head, if the file has one; return the names of its tensors."""
    if not config.get("modules_to_save") or not isinstance(model, Classifier):
        return set()
    weight, bias = names = f"{PREFIX}{HEAD}.weight", f"{PREFIX}{HEAD}.bias"
    inputs, labels = model.classifier.weights(jnp.float32).shape
    kernel = read_tensor(tensors, weight, (labels, inputs), where=path).T
    model.classifier.kernel = nnx.Param(jnp.asarray(kernel))
    model.classifier.bias = nnx.Param(
        jnp.asarray(read_tensor(tensors, bias, (labels,), where=path))
    )
    return set(names)


def _prompt(tensors: Mapping[str, LazyTensor], path: Path) -> Adapter:
    def attach(key: Key[Array, ""], model: Decoder) -> None:
        check_decoder(model, who="import_adapter")
        model.prompt = Added(jnp.asarray(_rows(tensors, model.config.hidden_size, path)))

    return Adapter(attach, Added)


def _prefix(tensors: Mapping[str, LazyTensor], path: Path) -> Adapter:
    def attach(key: Key[Array, ""], model: Decoder) -> None:
        check_decoder(model, who="import_adapter")
        c = model.config
        shape = (c.num_hidden_layers, 2, c.num_key_value_heads, c.head_size)
        rows = _rows(tensors, int(np.prod(shape)), path).reshape(-1, *shape)
        keys, values = jnp.asarray(rows.transpose(2, 1, 0, 3, 4))
        model.blocks.attention.prefix = Prefix(keys, values)

    return Adapter(attach, Added)


def _rows(tensors: Mapping[str, LazyTensor], width: int, path: Path) -> np.ndarray:
    refuse_others(tensors, {PROMPT}, where=path, why="a prompt is a single tensor")
    tokens = next((t.shape[0] for t in tensors.values() if len(t.shape) == 2), 1)
    return read_tensor(tensors, PROMPT, (max(tokens, 1), width), where=path)


def _patterns(config: Mapping[str, Any], field: str, where: Path) -> dict[str, Any]:
    given = config.get(field) or {}
    if not isinstance(given, dict):
        raise _wrong(where, field, "an object", given)
    for pattern in given:
        few = len(re.findall(r"[*+{?]", pattern)) <= 4 and not re.search(r"\)[*+{?]", pattern)
        if len(pattern) > 200 or not few or not _compiles(pattern):
            raise _wrong(where, field, "names, or patterns with at most four repetitions", pattern)
    return given


def _compiles(pattern: str) -> bool:
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _zip(*columns: Any) -> Any:
    return zip(*columns, strict=True)


def _wrong(where: Path, field: str, expected: str, got: object) -> ValueError:
    return ValueError(f"{where}: {field}: expected {expected}, got {got!r:.80}.")
