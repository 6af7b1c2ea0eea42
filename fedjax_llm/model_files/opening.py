"""Opening model files by path, package name or name on the Hugging Face hub."""

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedjax_compression.checks import check_kind

from .contract import ModelFiles
from .files import read_json_object
from .gguf_llama import open_gguf
from .packaged import minilm, smollm2
from .quiet import import_transformers
from .safetensors_reader import read_safetensors, read_sharded_safetensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DOWNLOADED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
"""Patterns of the files that are downloaded from the hub; none of them is a pickle."""
PACKAGED = {"smollm2": smollm2, "minilm": minilm}
"""Models that an installed package contains, by name."""
_WHO = "open_model_files"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_model_files(place: str | os.PathLike[str], *, revision: str | None = None) -> ModelFiles:
    """Open model files: a folder, a `.gguf` file, an installed package's model or one on the hub.

    - A folder has `config.json` and `model.safetensors`, or its shards and their index.
    - A `.gguf` file has a model of the Llama architecture.
    - An installed package has the model `smollm2` or `minilm`.
    - The hub has models named `owner/name`. Only safetensors, JSON and tokenizer files are
      downloaded.

    A path that exists is never looked up elsewhere. Headers are read and checked, as the files are
    untrusted (see `read_safetensors` and `open_gguf`); values are read only on request.

    Args:
        place: Path or name.
        revision: Branch, tag or commit of a model on the hub; the default branch by default.

    Returns:
        Config, tensors and tokenizer of the model.

    Raises:
        TypeError: `place` is neither text nor a path.
        FileNotFoundError: There is no such path, and neither an installed package nor the hub has
            a model of that name.
        ModuleNotFoundError: A package is not installed: the model's, or `gguf` for a `.gguf` file.
        ConnectionError: The hub cannot be reached, and the model is not in the local cache.
        ValueError: The files are malformed or of another format, or a `revision` is given for
            local files.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from fedjax_llm.model_files import open_model_files, write_safetensors
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "config.json").write_text('{"hidden_size": 4}')
        ...     tensors = {"norm.weight": np.ones(4, "float32")}
        ...     _ = write_safetensors(Path(folder) / "model.safetensors", tensors)
        ...     files = open_model_files(folder)
        ...     files.config["hidden_size"], list(files.tensors)
        (4, ['norm.weight'])

    """
    check_kind(place, (str, os.PathLike), who=_WHO, name="place", expected="a path or a name")
    path = Path(place)
    packaged = None if path.exists() else PACKAGED.get(os.fspath(place))
    if path.exists() or packaged:
        if revision is not None:
            raise ValueError(
                f"{_WHO}: revision: expected None, as {path} is not on the hub, got {revision!r}."
            )
        path = packaged() if packaged else path
    else:
        path = _from_hub(os.fspath(place), revision)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf":
        return open_gguf(path)
    raise ValueError(
        f"{_WHO}: place: expected a folder, a .gguf file or owner/name on the hub, got {path}."
    )


def _open_folder(folder: Path) -> ModelFiles:
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{_WHO}: {folder}: expected a config.json, got none.")
    if (folder / SINGLE).is_file():
        tensors = read_safetensors(folder / SINGLE)
    elif (folder / INDEX).is_file():
        tensors = read_sharded_safetensors(folder / INDEX)
    else:
        raise ValueError(
            f"{_WHO}: {folder}: expected {SINGLE} or {INDEX}, got neither; convert weights in "
            "other formats, such as pytorch_model.bin, with save_pretrained of transformers."
        )
    return ModelFiles(folder, read_json_object(config), tensors, partial(_tokenizer, folder))


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    try:
        return import_transformers().AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises errors of any type for files it cannot read
        raise ValueError(
            f"{folder}: expected a tokenizer that transformers can read, got an error: {error}"
        ) from error


def _from_hub(name: str, revision: str | None) -> Path:
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"{_WHO}: place: expected a path that exists, a model of a package "
            f"({', '.join(PACKAGED)}) or owner/name on the hub, got {name!r}."
        )
    import huggingface_hub  # noqa: PLC0415 (slow)
    from huggingface_hub.errors import (  # noqa: PLC0415
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(DOWNLOADED)
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"{_WHO}: place: expected a path or a model on the hub, got {name!r}; there is no such "
            f"path, and the hub has no such model or revision, or requires a login: {error}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"{_WHO}: place: expected a path or a model on the hub, got {name!r}; there is no such "
            "path, the model is not in the local cache, and the Hugging Face hub could not be "
            f"reached: {error}"
        ) from error
    return Path(folder)
