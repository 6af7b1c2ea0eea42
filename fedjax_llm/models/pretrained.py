"""Models from checkpoints, and back to folders that `transformers` opens."""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..model_files import ModelFiles, open_model_files, write_safetensors
from .config import DecoderConfig
from .encoder import EncoderConfig
from .hf_config import config_from, config_to
from .hf_encoder import encoder_config_from, encoder_config_to, hf_encoder_tensors, load_encoder
from .hf_tensors import hf_tensors, load_tensors

DType = Literal["float32", "bfloat16"]
SHARD = 5 * 10**9
"""Bytes of a file, as `transformers` splits them."""


class Pretrained(NamedTuple):
    """A model that was read, whatever its files were."""

    config: DecoderConfig | EncoderConfig
    params: PyTree
    """Nested dictionaries of JAX arrays: of a `Decoder`, an `Encoder`, or with labels of a
    `Classifier`."""
    labels: int | None
    """How many a fine-tuned BERT tells apart; None for all other models."""
    load_tokenizer: Callable[[], Any]
    """Builds the tokenizer. Raises `ValueError` where the files hold none that can be used."""


def load(
    place: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: DType = "float32",
    param_dtype: DType = "float32",
    remat: bool = False,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Read a model from a folder, a `.gguf` file, the hub or a package, as `open_model_files` says.

    `dtype` is that of activations and products, `param_dtype` that of the parameters. With a
    `mesh`, each parameter is cut along its longest axis that the mesh's devices divide evenly, and
    lies whole on each where there is none.
    Guarantees: every tensor of the files has a place in the model and the other way round. Tensors
    are read one at a time: the peak is the model and its largest parameter.
    Raises: what `open_model_files` does; `ValueError` naming the file, the field or the tensor,
    what was expected and what was got, for a configuration that is not supported, and for
    tensors that are missing, not known or of another shape.
    """
    checkpoint = open_model_files(place, revision=revision)
    keep = partial(_placed, mesh=mesh)
    readers = {name: tensor.read for name, tensor in checkpoint.tensors.items()}
    source = str(checkpoint.source)
    if checkpoint.config.get("model_type") != "bert":
        decoder = _described(checkpoint, config_from, dtype=dtype, remat=remat)
        params = load_tensors(decoder, readers, dtype=param_dtype, keep=keep, source=source)
        return Pretrained(decoder, params, None, checkpoint.load_tokenizer)
    pooler = any("pooler." in name for name in readers)
    encoder = _described(checkpoint, encoder_config_from, pooler=pooler, dtype=dtype, remat=remat)
    head = checkpoint.tensors.get("classifier.weight")
    labels = None if head is None else head.shape[0]
    params = load_encoder(
        encoder, readers, labels=labels, dtype=param_dtype, keep=keep, source=source
    )
    return Pretrained(encoder, params, labels, checkpoint.load_tokenizer)


def save(
    folder: str | os.PathLike[str],
    config: DecoderConfig | EncoderConfig,
    params: PyTree,
    *,
    labels: int | None = None,
    tokenizer: Any = None,
) -> None:
    """Write a folder that `transformers` and `load` open: `config.json`, `model.safetensors` (in
    shards of 5 GB) and, where a tokenizer is given, its files and its special tokens' numbers.

    Guarantees: the folder appears with all of it or not at all. Values are kept bit for bit.
    Raises `ValueError` for a folder that is there and not empty, and for a config that no model of
    its `model_type` can have.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"models.save: expected a new or an empty folder, got {folder}.")
    if isinstance(config, EncoderConfig):
        tensors = hf_encoder_tensors(config, params, labels=labels)
        values = encoder_config_to(config, labels=labels)
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


def _described(checkpoint: ModelFiles, read: Callable, **choices: Any) -> Any:
    try:
        return read(checkpoint.config, **choices)
    except ValueError as error:
        raise ValueError(f"{checkpoint.source}: config.json: {error}") from None


def _placed(value: np.ndarray, *, mesh: Mesh | None) -> jax.Array:
    """A parameter on its devices, of which each gets its own part alone.

    Waits until it is there: JAX copies in the background and keeps `value` until then, so that a
    busy machine would hold two or three parameters twice.
    """
    if mesh is None:
        placed = jnp.asarray(value)
    else:
        sharding = NamedSharding(mesh, cut(value.shape, mesh))
        placed = jax.make_array_from_callback(value.shape, sharding, value.__getitem__)
    return placed.block_until_ready()


def cut(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How a parameter of this shape is cut over all devices of a mesh."""
    even = [(size, -axis) for axis, size in enumerate(shape) if size % mesh.size == 0]
    if not even:
        return PartitionSpec()
    axis = -max(even)[1]
    return PartitionSpec(*(mesh.axis_names if i == axis else None for i in range(len(shape))))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _special_ids(tokenizer: Any) -> dict[str, int]:
    """Of the tokens that begin, end and fill up a text, as far as there are any."""
    names = (f"{kind}_token_id" for kind in ("bos", "eos", "pad"))
    ids = {name: getattr(tokenizer, name, None) for name in names}
    return {name: number for name, number in ids.items() if number is not None}
