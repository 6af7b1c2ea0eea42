"""A corpus on disk: a folder of arrays and a header, which appears whole or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .corpus import Corpus

FORMAT = 1
ARRAYS = ("tokens", "offsets", "documents", "counted")
"""Fields of a corpus that are arrays; those that are None have no file."""


def save_corpus(corpus: Corpus, folder: str | Path, *, key: str = "") -> None:
    """Write a corpus as a new folder, with a key that says what it was made of.

    It is written beside, seen to the disk and then renamed; where another process was first, its
    folder stays. A process that is killed leaves a folder `.draft-…` behind, which nothing reads.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        arrays = {}
        for name in ARRAYS:
            if (array := getattr(corpus, name)) is not None:
                with (draft / f"{name}.npy").open("wb") as file:
                    np.save(file, array, allow_pickle=False)
                    _to_disk(file)
                arrays[name] = _described(array, draft / f"{name}.npy")
        header: dict[str, Any] = {
            "format": FORMAT,
            "key": key,
            "names": list(corpus.names),
            "vocab_size": corpus.vocab_size,
            "arrays": arrays,
        }
        with (draft / "header.json").open("w", encoding="utf-8") as text:
            json.dump({**header, "digest": _digest(header)}, text, indent=1)
            _to_disk(text)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def open_corpus(folder: str | Path, *, key: str = "") -> Corpus:
    """A corpus whose arrays are mapped from their files, read as they are used.

    The header is checked by its digest; each file by its size, type and shape; not every token.
    Raises `ValueError` naming the file, what was expected and what was got.
    """
    folder = Path(folder)
    header = _header(folder / "header.json")
    if header["key"] != key:
        raise _bad(folder / "header.json", f"the key {key!r}", repr(header["key"]))
    arrays: dict[str, np.ndarray | None] = dict.fromkeys(ARRAYS)
    for name, expected in header["arrays"].items():
        path = folder / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            found = _described(array, path)
        except (OSError, ValueError) as error:
            raise _bad(path, str(expected), str(error)) from None
        if found != expected:
            raise _bad(path, str(expected), str(found))
        arrays[name] = np.asarray(array)
    return Corpus(names=tuple(header["names"]), vocab_size=header["vocab_size"], **arrays)  # type: ignore[arg-type]


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        digest = header.pop("digest")
        good = digest == _digest(header) and header["format"] == FORMAT
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        good = False
    if not good:
        raise _bad(path, f"a whole header of format {FORMAT}", "something else")
    return header


def _bad(path: Path, expected: str, got: str) -> ValueError:
    return ValueError(f"{path}: expected {expected}, got {got}; remove the folder to make it anew.")


def _described(array: np.ndarray, path: Path) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": path.stat().st_size}


def _digest(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
