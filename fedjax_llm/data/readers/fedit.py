"""Folders with one file per client, as FedIT publishes them."""

import warnings
from pathlib import Path
from typing import Any

from .examples import Fields, Reader, Records, check_reader
from .rows import json_rows

CLIENTS = "local_training_*.json"
TEST = "global_test.json"


def fedit(folder: str | Path, fields: Reader | None = None, *, pattern: str = CLIENTS) -> Records:
    """Read a folder with one file per client (FedIT, Zhang et al. 2023, arXiv:2305.05644).

    A client's file is a list of objects. The client has the name of its file, less the suffix.
    Other files, such as the pool, the test set and metadata, are passed over; a warning names
    them, but for those that FedIT's own folders have.

    Args:
        folder: The folder.
        fields: `Fields`, `PairFields` or `QuestionFields`: which fields of an object to read; a
            client field is ignored. Default: `instruction`, with `response` or `output`, and where
            a file's first object has them `context` or `input`, and `category` as the label.
        pattern: Names of the clients' files, with `*` for any characters. Default
            "local_training_*.json".

    Returns:
        The records of each client, clients sorted by name.

    Raises:
        TypeError: For `fields` of another kind.
        ValueError: For a folder without client files, a file without records or a bad record,
            naming file, record and field.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.data import fedit
        >>> record = {"instruction": "Name one.", "response": "One.", "category": "open_qa"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "local_training_0.json").write_text(json.dumps([record]))
        ...     examples = fedit(folder)
        >>> [example.label for example in examples["local_training_0"]]
        ['open_qa']

    """
    if fields is not None:
        check_reader(fields, who="fedit")
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    paths = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not paths:
        found = ", ".join(names[:5]) or "none"
        raise ValueError(
            f"{folder}: expected files of clients, {pattern}, got {found}; give the pattern of "
            "their names."
        )
    known = {*(path.name for path in paths), "global_training.json", TEST}
    if passed_over := [name for name in names if name not in known]:
        warnings.warn(
            f"{folder}: reads {len(paths)} files {pattern} and passes over "
            f"{', '.join(passed_over)}.",
            stacklevel=2,
        )
    return {path.stem: _records(path, fields) for path in paths}


def fedit_test(folder: str | Path, fields: Reader | None = None) -> Records:
    """Read the global test set of a folder that `fedit` reads, to hold it out.

    Args:
        folder: The folder, with a file `global_test.json`.
        fields: As for `fedit`.

    Returns:
        The records, of one client "global_test".

    Raises:
        TypeError: For `fields` of another kind.
        ValueError: For a file without records or a bad record, naming file, record and field.
        FileNotFoundError: Where there is no such file.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.data import fedit_test
        >>> record = {"instruction": "Name one.", "output": "One."}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "global_test.json").write_text(json.dumps([record]))
        ...     examples = fedit_test(folder)
        >>> list(examples)
        ['global_test']

    """
    if fields is not None:
        check_reader(fields, who="fedit_test")
    path = Path(folder, TEST)
    return {path.stem: _records(path, fields)}


def _records(path: Path, fields: Reader | None) -> list[Any]:
    """The records of one file."""
    rows = list(json_rows(path))
    if not rows:
        raise ValueError(f"{path}: expected at least one record, got none.")
    reader = _fields_of(rows[0][1]) if fields is None else fields
    return [reader.read(record, source)[1] for source, record in rows]


def _fields_of(record: Any) -> Fields:
    """Choose the fields by the names in a file's first record."""
    first = record if isinstance(record, dict) else {}
    return Fields(
        instruction="instruction",
        context="input" if "input" in first else "context",
        response="output" if "output" in first else "response",
        label="category" if "category" in first else None,
    )
