"""Model files as the rest of the library reads them: a config, named tensors, a tokenizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class LazyTensor:
    """Tensor whose shape and dtype are known before its values are read.

    `open_model_files` returns them, and `write_safetensors` accepts them.

    Attributes:
        shape: Shape of the array.
        dtype: Type of its entries.
        read: `() -> array`: reads the values into a new contiguous array of this shape and dtype,
            which nothing else refers to. It raises `ValueError` if the file has become shorter
            since it was opened.
        source: File that holds the tensor, for error messages; None (the default) for a computed
            tensor.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.model_files import LazyTensor
        >>> tensor = LazyTensor((2, 3), np.dtype("float32"), lambda: np.zeros((2, 3), "float32"))
        >>> tensor.nbytes, tensor.read().sum().item()
        (24, 0.0)

    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    source: Path | None = None

    @property
    def nbytes(self) -> int:
        """Number of bytes of the array that `read` returns."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


@dataclass(frozen=True)
class ModelFiles:
    """Model files in the Hugging Face layout, for every file format.

    A tensor is read when its `read` is called, and is not cached. A loader that reads tensors one
    by one needs memory for what it keeps and for one tensor.

    Attributes:
        source: Folder or file that was opened.
        config: The mapping in `config.json`, with the keys of transformers 5.
        tensors: Tensors by Hugging Face name, in the order of the files.
        load_tokenizer: `() -> tokenizer`. It raises `ValueError` if the files have no usable
            tokenizer.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from fedjax_llm.model_files import LazyTensor, ModelFiles
        >>> zeros = LazyTensor((4,), np.dtype("float32"), lambda: np.zeros(4, "float32"))
        >>> files = ModelFiles(Path("model"), {"hidden_size": 4}, {"norm": zeros}, lambda: None)
        >>> sum(tensor.nbytes for tensor in files.tensors.values())
        16

    """

    source: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, LazyTensor]
    load_tokenizer: Callable[[], "PreTrainedTokenizerBase"]
