"""A corpus on disk: a folder of arrays and a header that appears only once it is complete."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_client_data
from .corpus import Corpus

FORMAT = 1
ARRAYS = ("tokens", "offsets", "documents", "counted")
"""Fields of a corpus that are arrays. A field that is None has no file."""


def save_corpus(corpus: Corpus, folder: str | Path, *, key: str = "") -> None:
    """Write a corpus to a new folder.

    The files are written to a draft folder beside it, flushed to disk, and then renamed, so the
    folder is complete as soon as it exists. If it exists already, it is left as it is. A process
    that is killed may leave a folder `.draft-…` behind, which nothing reads.

    Args:
        corpus: The corpus.
        folder: The folder to create; its parents are created too.
        key: Text that identifies what the corpus was made of, which `open_corpus` compares.
            Default: empty.

    Raises:
        TypeError: For `corpus` that is not a `Corpus`.
        OSError: Where a file cannot be written; no folder is created then.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.data import byte_corpus, open_corpus, save_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_corpus(byte_corpus({"ann": "a" * 20}), Path(folder, "kept"), key="v1")
        ...     open_corpus(Path(folder, "kept"), key="v1").targets().tolist()
        [19]

    """
    check_client_data(corpus, who="save_corpus", name="corpus", kind=Corpus)
    folder = Path(folder)
    with _draft(folder.parent) as draft:
        _write(draft, corpus, key)
        _place(draft, folder)


class GrowingCorpus:
    """A corpus that is written token by token, of which memory holds only what is new.

    The order of calls: `append` for each document, `arrays` once, and `complete` with the corpus
    that has these arrays.
    """

    def __init__(self, draft: Path, dtype: Any) -> None:
        """Begin the files of the tokens, which have a type, and of which of them count."""
        self._draft = draft
        self._tokens = _GrowingArray(draft / "tokens.npy", np.dtype(dtype))
        self._counted = _GrowingArray(draft / "counted.npy", np.dtype(bool))

    def append(self, tokens: np.ndarray, counted: np.ndarray) -> None:
        """Write the next tokens, and which of them count."""
        self._tokens.append(tokens)
        self._counted.append(counted)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Close the files, and map them into memory: all tokens, and which of them count."""
        return self._tokens.whole(), self._counted.whole()

    def close(self) -> None:
        """Close what is open, as after an error."""
        self._tokens.close()
        self._counted.close()

    def complete(self, corpus: Corpus, *, key: str) -> None:
        """Write the rest of a corpus, whose tokens are there, and name the folder by its key."""
        if corpus.counted is None:
            (self._draft / "counted.npy").unlink()
        _write(self._draft, corpus, key)
        _place(self._draft, self._draft.parent / key)


@contextmanager
def growing_corpus(parent: Path, dtype: Any) -> Iterator[GrowingCorpus]:
    """Write a corpus part by part to a new folder, which appears as that of `save_corpus` does.

    It appears in `parent` when the corpus is completed, under the key that is known by then.
    """
    with _draft(parent) as draft:
        growing = GrowingCorpus(draft, dtype)
        try:
            yield growing
        finally:
            growing.close()


class _GrowingArray:
    """A file as `numpy.save` writes it, of an array to whose end values are appended."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._path, self._dtype, self._size = path, dtype, 0
        self._file = path.open("wb")
        self._begin()

    def append(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype, copy=False).tobytes())
        self._size += values.size

    def whole(self) -> np.ndarray:
        self._file.seek(0)
        self._begin()  # numpy leaves room in a header for any size
        _to_disk(self._file)
        self._file.close()
        return np.load(self._path, mmap_mode="r", allow_pickle=False)

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which was raised before
            self._file.close()

    def _begin(self) -> None:
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._size,),
        }
        np.lib.format.write_array_header_1_0(self._file, described)


@contextmanager
def _draft(parent: Path) -> Iterator[Path]:
    """A new folder within another, which is removed at the end unless it was placed."""
    parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _place(draft: Path, folder: Path) -> None:
    """Give a draft its name, unless there is a folder of that name; raises if it cannot."""
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write(draft: Path, corpus: Corpus, key: str) -> None:
    """Write the arrays that are not there yet, and the header."""
    arrays = {}
    for name in ARRAYS:
        if (array := getattr(corpus, name)) is None:
            continue
        path = draft / f"{name}.npy"
        if not path.exists():
            with path.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                _to_disk(file)
        arrays[name] = _described(array, path)
    header: dict[str, Any] = {
        "format": FORMAT,
        "key": key,
        "names": list(corpus.names),
        "vocab_size": corpus.vocab_size,
        "arrays": arrays,
        **({"left_out": corpus.left_out} if corpus.left_out else {}),
    }
    with (draft / "header.json").open("w", encoding="utf-8") as text:
        json.dump({**header, "digest": _digest(header)}, text, indent=1)
        _to_disk(text)


def open_corpus(folder: str | Path, *, key: str = "") -> Corpus:
    """Open a corpus that `save_corpus` wrote, with its arrays mapped into memory read-only.

    Memory: pages of the files are read when they are used. The digest of the header is checked, and
    the size, type and shape of each array; the tokens themselves are not.

    Args:
        folder: The folder of the corpus.
        key: The key it was saved with. Default: empty.

    Returns:
        The corpus.

    Raises:
        ValueError: For another key, and for a file that is missing, damaged or not as the header
            says; names the file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.data import byte_corpus, open_corpus, save_corpus
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_corpus(byte_corpus({"ann": "a" * 20}), Path(folder, "kept"))
        ...     open_corpus(Path(folder, "kept")).names
        ('ann',)

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
    left_out = {what: tuple(each) for what, each in header.get("left_out", {}).items()} or None
    return Corpus(
        names=tuple(header["names"]),
        vocab_size=header["vocab_size"],
        left_out=left_out,
        **arrays,  # type: ignore[arg-type]
    )


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        digest = header.pop("digest")
        good = digest == _digest(header) and header["format"] == FORMAT
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        good = False
    if not good:
        raise _bad(path, f"a complete header of format {FORMAT}", "something else")
    return header


def _bad(path: Path, expected: str, got: str) -> ValueError:
    return ValueError(
        f"{path}: expected {expected}, got {got}; remove the folder to write it again."
    )


def _described(array: np.ndarray, path: Path) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "shape": list(array.shape), "bytes": path.stat().st_size}


def _digest(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
