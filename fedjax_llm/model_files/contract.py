"""What a model on disk is to the rest of the library: a config, named tensors, a tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape and dtype are known before its values are read.

    What `open_model_files` gives, and what `write_safetensors` takes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    """Reads the values: a new contiguous array of this shape and dtype, which nothing else holds.

    Raises `ValueError` where the file has become shorter since it was opened.
    """
    source: Path | None = None
    """The file it comes from, for error messages; None for one that is computed."""

    @property
    def nbytes(self) -> int:
        """Bytes of the array that `read` gives."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@dataclass(frozen=True)
class ModelFiles:
    """A model in the Hugging Face view, whatever its files are."""

    source: Path
    """The folder or file it was opened from."""
    config: Mapping[str, Any]
    """As in `config.json`, by the names that transformers 5 gives them."""
    tensors: Mapping[str, LazyTensor]
    """By Hugging Face name, in the order in which the files hold them.

    Each is read when asked for and kept by nobody, so that a loader that reads them one by one
    needs the memory of what it keeps and of one tensor.
    """
    load_tokenizer: Callable[[], "PreTrainedTokenizerBase"]
    """Builds the tokenizer. Raises `ValueError` where the files hold none that can be used."""
