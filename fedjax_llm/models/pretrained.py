"""Loading pretrained models, and saving models to folders that `transformers` opens."""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression.checks import check_choice, check_kind
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..model_files import ModelFiles, open_model_files, write_safetensors
from .config import DecoderConfig
from .encoder import EncoderConfig
from .hf_config import config_from, config_to
from .hf_encoder import encoder_config_from, encoder_config_to, hf_encoder_tensors, load_encoder
from .hf_tensors import check_params, hf_tensors, load_tensors

DType = Literal["float32", "bfloat16"]
SHARD = 5 * 10**9
"""Largest number of bytes of the tensors in one file."""


class Pretrained(NamedTuple):
    """Pretrained model, as `load` returns it.

    Attributes:
        config: Config of the decoder or encoder.
        params: Nested dictionaries of JAX arrays: the parameters of a `Decoder`, of an `Encoder`,
            or, with `labels`, of a `Classifier`.
        labels: Number of labels of a fine-tuned BERT classifier; None for other models.
        load_tokenizer: `() -> tokenizer`. It raises `ValueError` if the files have no usable
            tokenizer.

    """

    config: DecoderConfig | EncoderConfig
    params: PyTree
    labels: int | None
    load_tokenizer: Callable[[], Any]


def load(
    place: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: DType = "float32",
    param_dtype: DType = "float32",
    remat: bool = False,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Load a pretrained model from a folder, a `.gguf` file, an installed package or the hub.

    Every tensor of the files must have a parameter in the model, and every parameter its tensors.
    Tensors are read one at a time: the peak memory is the model and its largest parameter.

    Args:
        place: Path or name, as for `open_model_files`.
        revision: Branch, tag or commit on the hub; the default branch by default.
        dtype: Type of activations and products, "float32" (the default) or "bfloat16".
        param_dtype: Type of the parameters, "float32" (the default) or "bfloat16". Clients and
            server step float32 copies of bfloat16 parameters that they train, and send bfloat16;
            the result is in float32, and `algorithms.shared.cast(result, params)` rounds it.
        remat: Recompute whole blocks in the backward pass; False by default.
        mesh: Devices over which each parameter is split, along its longest axis that their number
            divides; a parameter without such an axis is copied to every device. None (the default)
            places all parameters on the default device.

    Returns:
        Config, parameters, number of labels and tokenizer of the model.

    Raises:
        TypeError: `place` is not a path or a name, or `mesh` is not a mesh.
        FileNotFoundError: There is no such path, and neither an installed package nor the hub has
            a model of that name.
        ModuleNotFoundError: A package is not installed: the model's, or `gguf` for a `.gguf` file.
        ConnectionError: The hub cannot be reached, and the model is not in the local cache.
        ValueError: A file is malformed, the config is not supported, or a tensor is missing,
            unknown or of another shape; the message names the file and the field or tensor.

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from fedjax_llm.models import Decoder, DecoderConfig, load, save
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(folder, config, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        ...     loaded = load(folder)
        >>> loaded.config == config, loaded.params["embedding"].shape
        (True, (16, 8))

    """
    check_choice(dtype, ("float32", "bfloat16"), who="load", name="dtype")
    check_choice(param_dtype, ("float32", "bfloat16"), who="load", name="param_dtype")
    if mesh is not None:
        check_kind(mesh, Mesh, who="load", name="mesh", expected="a jax.sharding.Mesh or None")
    files = open_model_files(place, revision=revision)
    keep = partial(_placed, mesh=mesh)
    readers = {name: tensor.read for name, tensor in files.tensors.items()}
    source = str(files.source)
    if files.config.get("model_type") != "bert":
        decoder = _read_config(files, config_from, dtype=dtype, remat=remat)
        params = load_tensors(decoder, readers, dtype=param_dtype, keep=keep, source=source)
        return Pretrained(decoder, params, None, files.load_tokenizer)
    pooler = any("pooler." in name for name in readers)
    encoder = _read_config(files, encoder_config_from, pooler=pooler, dtype=dtype, remat=remat)
    head = files.tensors.get("classifier.weight")
    labels = None if head is None else head.shape[0]
    params = load_encoder(
        encoder, readers, labels=labels, dtype=param_dtype, keep=keep, source=source
    )
    return Pretrained(encoder, params, labels, files.load_tokenizer)


def save(
    folder: str | os.PathLike[str],
    config: DecoderConfig | EncoderConfig,
    params: PyTree,
    *,
    labels: int | None = None,
    label_names: Sequence[str] | None = None,
    tokenizer: Any = None,
) -> None:
    """Save a model to a folder that `transformers` and `load` open.

    The folder gets `config.json`, `model.safetensors` (in shards of at most 5 GB) and, with a
    tokenizer, the tokenizer's files and `generation_config.json` with the ids of its special
    tokens. The folder appears with all files or not at all. Values are kept bit for bit.

    Args:
        folder: The folder to write; it must not exist, or be empty.
        config: Config of the decoder or encoder.
        params: Nested dictionaries of arrays: the parameters of a `Decoder`, of an `Encoder`, or,
            with `labels`, of a `Classifier`.
        labels: Number of labels of a classifier; None (the default) for other models.
        label_names: Their names in order, which `transformers` then predicts. Default: LABEL_0,
            LABEL_1 and so on.
        tokenizer: Tokenizer of `transformers`; None (the default) for a folder without one.

    Raises:
        TypeError: An argument is of another kind.
        ValueError: The folder is not empty, no model of the config's `model_type` has this
            structure, `labels` or their names are given for a decoder, or the names are not
            `labels` different ones.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from flax import nnx
        >>> from fedjax_llm.models import Decoder, DecoderConfig, save
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> model = Decoder(config, rngs=nnx.Rngs(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(folder, config, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['config.json', 'model.safetensors']

    """
    check_kind(folder, (str, os.PathLike), who="save", name="folder", expected="a path")
    check_kind(
        config,
        (DecoderConfig, EncoderConfig),
        who="save",
        name="config",
        expected="a DecoderConfig or an EncoderConfig",
    )
    check_params(params, who="save")
    for name, given in (("labels", labels), ("label_names", label_names)):
        if given is not None and isinstance(config, DecoderConfig):
            raise ValueError(f"save: {name}: expected None for a decoder, got {given!r}.")
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise TypeError(
            "save: tokenizer: expected a tokenizer of transformers or None, got "
            f"{type(tokenizer).__name__}; a model's load_tokenizer() gives one."
        )
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"save: folder: expected a new or an empty one, got {folder}.")
    if isinstance(config, EncoderConfig):
        tensors = hf_encoder_tensors(config, params, labels=labels)
        values = encoder_config_to(config, labels=labels, label_names=label_names)
    else:
        tensors, values = hf_tensors(config, params), config_to(config)
    values["dtype"] = jax.tree.leaves(params)[0].dtype.name
    ids = _special_ids(tokenizer)
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    draft.mkdir(parents=True)
    try:
        write_safetensors(draft / "model.safetensors", tensors, max_shard_bytes=SHARD)
        _write_json(draft / "config.json", values | ids)
        if tokenizer is not None:
            tokenizer.save_pretrained(draft)
            _write_json(draft / "generation_config.json", ids)
        if folder.exists():
            folder.rmdir()
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft)
        raise


def _read_config(files: ModelFiles, read: Callable, **choices: Any) -> Any:
    """Read the config, and name the files in its errors."""
    try:
        return read(files.config, **choices)
    except ValueError as error:
        raise ValueError(f"{files.source}: {error}") from None


def _placed(value: np.ndarray, *, mesh: Mesh | None) -> jax.Array:
    """Copy a parameter to its devices; each receives only its shard.

    It waits for the copy: JAX copies in the background and keeps `value` until then, so a busy
    machine would hold two or three parameters twice.
    """
    if mesh is None:
        placed = jnp.asarray(value)
    else:
        sharding = NamedSharding(mesh, cut(value.shape, mesh))
        placed = jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
    return placed.block_until_ready()


def cut(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Split a parameter of this shape over all devices of a mesh, as `load` says."""
    even = [(size, -axis) for axis, size in enumerate(shape) if size % mesh.size == 0]
    if not even:
        return PartitionSpec()
    axis = -max(even)[1]
    return PartitionSpec(*(mesh.axis_names if i == axis else None for i in range(len(shape))))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _special_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the tokenizer's begin, end and padding tokens, as far as it has them."""
    names = (f"{kind}_token_id" for kind in ("bos", "eos", "pad"))
    ids = {name: getattr(tokenizer, name, None) for name in names}
    return {name: number for name, number in ids.items() if number is not None}
