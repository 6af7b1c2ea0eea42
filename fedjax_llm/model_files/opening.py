"""From a path or a name on the Hugging Face hub to a checkpoint."""

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .contract import ModelFiles
from .files import read_json_object
from .gguf_llama import open_gguf
from .packaged import minilm, smollm2
from .safetensors_reader import read_safetensors, read_sharded_safetensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DOWNLOADED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt")
"""Patterns of the files that are fetched from the hub: nothing that would have to be unpickled."""
PACKAGED = {"smollm2": smollm2, "minilm": minilm}
"""Models that an installed package carries, by name."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_model_files(place: str | os.PathLike[str], *, revision: str | None = None) -> ModelFiles:
    """Open a folder with `config.json` and `model.safetensors` (or its shards and their index), a
    `.gguf` file of the Llama architecture, a model that an installed package carries (`smollm2` or
    `minilm`), or a model on the hub, `owner/name`.

    A path that exists is never looked up elsewhere. `revision` is the branch, tag or commit there.
    Guarantees: headers are read and checked, and no values; of the hub, only safetensors, JSON and
    tokenizer files are fetched. No file is believed: see `read_safetensors` and `read_gguf_header`.
    Raises: `FileNotFoundError` where there is no such path and the text is no name on the hub, or
    the hub does not have it; `ConnectionError` where the hub cannot be reached and the model is not
    in the local cache; `ValueError` for files that are not what they must be.
    """
    path = Path(place)
    packaged = None if path.exists() else PACKAGED.get(os.fspath(place))
    if path.exists() or packaged:
        if revision is not None:
            raise ValueError(
                f"open_checkpoint: revision is for models on the hub, but {path} is here; "
                f"got {revision!r}."
            )
        path = packaged() if packaged else path
    else:
        path = _from_hub(os.fspath(place), revision)
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".gguf":
        return open_gguf(path)
    raise ValueError(
        f"open_checkpoint: must be a folder, a .gguf file or owner/name on the hub, got {path}."
    )


def _open_folder(folder: Path) -> ModelFiles:
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"open_checkpoint: {folder} must hold a config.json, and does not.")
    if (folder / SINGLE).is_file():
        tensors = read_safetensors(folder / SINGLE)
    elif (folder / INDEX).is_file():
        tensors = read_sharded_safetensors(folder / INDEX)
    else:
        raise ValueError(
            f"open_checkpoint: {folder} must hold {SINGLE} or {INDEX}; weights in other formats, "
            "such as pytorch_model.bin, are not read: convert them with transformers' "
            "save_pretrained."
        )
    return ModelFiles(folder, read_json_object(config), tensors, partial(_tokenizer, folder))


def _tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer  # noqa: PLC0415 (slow, and says that torch is missing)

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises any for files that it does not understand
        raise ValueError(
            f"{folder}: must hold a tokenizer that transformers can read: {error}"
        ) from error


def _from_hub(name: str, revision: str | None) -> Path:
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"open_checkpoint: there is no {name}, and it is neither a model of a package "
            f"({', '.join(PACKAGED)}) nor one of the hub, owner/name."
        )
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(DOWNLOADED)
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"open_checkpoint: there is no path {name} here, and the hub has no such model or "
            f"revision, or asks for a login: {error}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConnectionError(
            f"open_checkpoint: there is no path {name} here, it is not in the local cache, and the "
            f"Hugging Face hub could not be reached: {error}"
        ) from error
    return Path(folder)
