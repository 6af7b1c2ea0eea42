"""Reading the values of tensors in a GGUF file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

from .files import read_bytes
from .gguf_header import GgufTensor
from .gguf_package import import_gguf

_PLAIN = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("<i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
_BLOCKS = 2**13
"""Blocks dequantised at once: 1 or 8 MiB of float32, as a block has 32 or 256 entries."""


def gguf_values(
    path: Path, name: str, tensor: GgufTensor
) -> tuple[np.dtype, Callable[[], np.ndarray]]:
    """Return the dtype that a tensor has when read, and the function that reads it.

    Quantised tensors become float32, equal to `gguf.dequantize` bit for bit, with a few MiB of
    memory beyond the result. Others keep their dtype.
    Raises `ValueError` for a type that the gguf package cannot dequantise.
    """
    gguf = import_gguf()
    kind = gguf.GGMLQuantizationType(tensor.kind)
    if kind.name in _PLAIN:
        dtype = _PLAIN[kind.name]
        return dtype, partial(_read_plain, path, name, tensor, dtype)
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    try:
        gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError as error:
        raise ValueError(
            f"{path}: tensor {name!r}: expected a type that the gguf package can dequantise, got "
            f"{kind.name}."
        ) from error

    return np.dtype(np.float32), partial(_read_quantised, path, name, tensor)


def _read_plain(path: Path, name: str, tensor: GgufTensor, dtype: np.dtype) -> np.ndarray:
    raw = read_bytes(path, tensor.offset, tensor.nbytes, what=f"tensor {name!r}")
    return raw.view(dtype).reshape(tensor.shape)


def _read_quantised(path: Path, name: str, tensor: GgufTensor) -> np.ndarray:
    gguf = import_gguf()
    kind = gguf.GGMLQuantizationType(tensor.kind)
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    values = np.empty(tensor.nbytes // block_bytes * block, np.float32)
    size, done = _BLOCKS * block_bytes, 0
    for start in range(0, tensor.nbytes, size):
        count = min(size, tensor.nbytes - start)
        raw = read_bytes(path, tensor.offset + start, count, what=f"tensor {name!r}")
        with np.errstate(all="ignore"):  # a scale in the file may be infinite or NaN
            piece = gguf.dequantize(raw[None], kind).reshape(-1)
        values[done : done + piece.size] = piece
        done += piece.size
    return values.reshape(tensor.shape)
