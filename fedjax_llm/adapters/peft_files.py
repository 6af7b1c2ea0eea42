"""Reading and writing the two files of an adapter of Hugging Face's `peft`."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..model_files import LazyTensor, read_safetensors, write_safetensors
from ..model_files.files import read_json_object

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of a module's name in the names of a file's tensors."""
PROMPT = "prompt_embeddings"
"""Name of the one tensor of a prompt or a prefix."""
HEAD = "classifier"
"""Name of the head of a classifier of texts."""
FLOATS = ("float16", "bfloat16", "float32", "float64")


def write_adapter(
    folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write both files, replacing those of an earlier adapter.

    A reader may find no config while this runs, but never a mixture of two adapters.

    Args:
        folder: The folder; made if it does not exist.
        config: Contents of `adapter_config.json`.
        tensors: Contents of `adapter_model.safetensors`, by name.

    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    draft = place / f".{CONFIG}-{secrets.token_hex(8)}.part"
    try:
        with draft.open("x", encoding="utf-8") as file:
            json.dump(config, file, indent=2, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        (place / CONFIG).unlink(missing_ok=True)
        write_safetensors(place / TENSORS, tensors)
        draft.replace(place / CONFIG)
    finally:
        draft.unlink(missing_ok=True)


def read_adapter(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, LazyTensor]]:
    """Read an adapter's config and the shapes and dtypes of its tensors.

    Args:
        folder: The folder with both files.

    Returns:
        The config, and the tensors by name, whose values are not read yet.

    Raises:
        ValueError: If a file is missing or malformed, or a tensor's dtype is not a float.

    """
    place = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (place / name).is_file():
            raise ValueError(
                f"{place}: {name}: expected a file of a peft adapter, got no such file."
            )
    tensors = read_safetensors(place / TENSORS)
    for name, tensor in tensors.items():
        if tensor.dtype.name not in FLOATS:
            raise ValueError(
                f"{place / TENSORS}: tensor {name!r}: expected one of {', '.join(FLOATS)}, got "
                f"{tensor.dtype.name}."
            )
    return read_json_object(place / CONFIG), tensors


def read_tensor(
    tensors: Mapping[str, LazyTensor], name: str, shape: tuple[int, ...], *, where: Path
) -> np.ndarray:
    """Read one tensor as float32.

    Raises `ValueError` if it is missing, has another shape, or a value that is not finite.
    """
    if name not in tensors:
        raise ValueError(
            f"{where}: tensor {name!r}: expected shape {shape}, got no tensor of this name."
        )
    if tensors[name].shape != shape:
        raise ValueError(
            f"{where}: tensor {name!r}: expected shape {shape}, got {tensors[name].shape}."
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 is refused as infinite
        values = tensors[name].read().astype(np.float32)
    if not (finite := np.isfinite(values)).all():
        place = tuple(map(int, np.argwhere(~finite)[0]))
        raise ValueError(
            f"{where}: tensor {name!r}: expected finite numbers, got {values[place]} at {place}; "
            "the adapter's training failed, or the file is damaged."
        )
    return values


def refuse_others(
    tensors: Mapping[str, LazyTensor], known: set[str], *, where: Path, why: str
) -> None:
    """Raise `ValueError` for a tensor whose name is not known."""
    if extra := sorted(set(tensors) - known):
        rest = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise ValueError(
            f"{where}: expected only the adapter's tensors, got {extra[0]!r}{rest}; {why}."
        )
