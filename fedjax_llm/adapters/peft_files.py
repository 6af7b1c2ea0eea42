"""The two files of an adapter of Hugging Face's `peft`, read and written."""

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
"""Before the name of a module in a file's tensors."""
PROMPT = "prompt_embeddings"
FLOATS = ("float16", "bfloat16", "float32", "float64")


def write_adapter(
    folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Write both files. Whoever reads in between may find no adapter, but never a mixture."""
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
    """The config and the tensors, of which no values are read yet.

    Raises `ValueError` for a folder without these files, files that are not what they must be, and
    tensors that are not of floats.
    """
    place = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (place / name).is_file():
            raise ValueError(f"{place}: an adapter of peft must hold {name}, and does not.")
    tensors = read_safetensors(place / TENSORS)
    for name, tensor in tensors.items():
        if tensor.dtype.name not in FLOATS:
            raise ValueError(
                f"{place / TENSORS}: tensor {name!r} must be of {', '.join(FLOATS)}, got "
                f"{tensor.dtype.name}."
            )
    return read_json_object(place / CONFIG), tensors


def value(
    tensors: Mapping[str, LazyTensor], name: str, shape: tuple[int, ...], *, where: Path
) -> np.ndarray:
    """One tensor in float32; `ValueError` for one that is missing or of another shape."""
    if name not in tensors:
        raise ValueError(f"{where}: expected tensor {name!r} of shape {shape}, which it lacks.")
    if tensors[name].shape != shape:
        raise ValueError(
            f"{where}: tensor {name!r}: expected shape {shape}, got {tensors[name].shape}."
        )
    return tensors[name].read().astype(np.float32)


def no_others(tensors: Mapping[str, LazyTensor], known: set[str], *, where: Path, why: str) -> None:
    """Raise `ValueError` for a tensor that is not known."""
    if extra := sorted(set(tensors) - known):
        rest = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
        raise ValueError(f"{where}: expected no tensor {extra[0]!r}{rest}: {why}.")
