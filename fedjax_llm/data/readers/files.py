"""Records of files and tables, grouped by the client that a field names."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedjax_compression.checks import check_kind

from .examples import Fields, Reader, Records, check_reader, grouped
from .installed import missing


def jsonl(path: str | Path, fields: Reader) -> Records:
    r"""Read a file with one JSON object per line, in UTF-8. Empty lines are skipped.

    Args:
        path: The file.
        fields: `Fields`, `PairFields` or `QuestionFields`: which fields of a record to read.

    Returns:
        The records of each client, clients sorted by name. Without a client field, all records
        belong to one client with the name of the file, less its suffix.

    Raises:
        TypeError: For `fields` of another kind.
        ValueError: For a bad record, naming file, line and field, and for a file without records.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.data import Fields, jsonl
        >>> lines = '{"user": "bob", "text": "Hi"}\n{"user": "ann", "text": "Yes"}\n'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "notes.jsonl")
        ...     _ = path.write_text(lines)
        ...     examples = jsonl(path, Fields(text="text", client="user"))
        >>> {client: [example.text for example in each] for client, each in examples.items()}
        {'ann': ['Yes'], 'bob': ['Hi']}

    """
    check_reader(fields, who="jsonl")
    path = Path(path)
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                source = f"{path}: line {number}"
                records.append(fields.read(_parse(line, source), source))
    return grouped(records, source=path.stem)


def parquet(path: str | Path, fields: Reader) -> Records:
    """Read the named columns of a Parquet file.

    Args:
        path: The file.
        fields: `Fields`, `PairFields` or `QuestionFields`: which columns to read.

    Returns:
        The records of each client, clients sorted by name. Without a client column, all records
        belong to one client with the name of the file, less its suffix.

    Raises:
        TypeError: For `fields` of another kind.
        ValueError: For a file that is not Parquet, a missing column or a bad record, naming file,
            row and column, and for a file without records.
        FileNotFoundError: Where there is no such file.
        ModuleNotFoundError: Where `pyarrow` is not installed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pyarrow
        >>> import pyarrow.parquet
        >>> from fedjax_llm.data import Fields, parquet
        >>> rows = pyarrow.table({"user": ["bob", "ann"], "text": ["Hi", "Yes"]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "notes.parquet")
        ...     pyarrow.parquet.write_table(rows, path)
        ...     examples = parquet(path, Fields(text="text", client="user"))
        >>> {client: [example.text for example in each] for client, each in examples.items()}
        {'ann': ['Yes'], 'bob': ['Hi']}

    """
    check_reader(fields, who="parquet")
    try:
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise missing("pyarrow", extra="data", who="parquet") from None
    path = Path(path)
    try:
        with ParquetFile(path) as file:
            columns = _columns(fields, file.schema_arrow.names, str(path))
            rows = [row for part in file.iter_batches(columns=columns) for row in part.to_pylist()]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # pyarrow raises both kinds
        named = str(path) in str(error)
        raise ValueError(str(error) if named else f"{path}: {error}") from None
    return grouped(_read(rows, fields, str(path)), source=path.stem)


def table(rows: Iterable[Any], fields: Reader, *, name: str = "table") -> Records:
    """Read a `datasets.Dataset` or any other iterable of mappings.

    Args:
        rows: The records. Of an object with `column_names` and `select_columns`, only the named
            columns are read.
        fields: `Fields`, `PairFields` or `QuestionFields`: which fields of a record to read.
        name: Name of the table, in errors and as the client where no field names one. Default
            "table".

    Returns:
        The records of each client, clients sorted by name.

    Raises:
        TypeError: For `rows` that is not iterable, and for `fields` of another kind.
        ValueError: For a dictionary of splits, a missing column or a bad record, naming table, row
            and field, and for a table without records.

    Example:
        >>> from fedjax_llm.data import Fields, table
        >>> rows = [{"user": "bob", "text": "Hi"}, {"user": "ann", "text": "Yes"}]
        >>> examples = table(rows, Fields(text="text", client="user"), name="notes")
        >>> {client: [tuple(e) for e in each] for client, each in examples.items()}
        {'ann': [('Yes', '', 'notes: row 2')], 'bob': [('Hi', '', 'notes: row 1')]}

    """
    check_kind(rows, Iterable, who="table", name="rows", expected="an iterable of mappings")
    check_reader(fields, who="table")
    columns = getattr(rows, "column_names", None)
    if isinstance(columns, dict):
        raise ValueError(
            f"{name}: expected one table, got a dictionary of the splits {', '.join(columns)}; "
            "choose one."
        )
    if columns is not None:
        keep = _columns(fields, columns, name)
        rows = rows.select_columns(keep) if hasattr(rows, "select_columns") else rows
    return grouped(_read(rows, fields, name), source=name)


def fedit(folder: str | Path, fields: Reader | None = None) -> Records:
    """Read a folder with one file per client (FedIT, Zhang et al. 2023, arXiv:2305.05644).

    Each `.json` file is a list of objects. The client has the name of its file, less the suffix.
    Files whose names start with `global_`, the pool and its test set, are skipped.

    Args:
        folder: The folder.
        fields: `Fields`, `PairFields` or `QuestionFields`: which fields of an object to read; a
            client field is ignored. Default: `instruction`, with `response` or `output`, and where
            a file's first object has them `context` or `input`, and `category` as the label.

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
    paths = [p for p in sorted(folder.glob("*.json")) if not p.name.startswith("global_")]
    if not paths:
        raise ValueError(f"{folder}: expected a .json file for each client, got none.")
    examples: dict[str, list[Any]] = {}
    for path in paths:
        records = _parse(path.read_bytes(), str(path))
        if not isinstance(records, list) or not records:
            raise ValueError(
                f"{path}: expected a list of at least one record, got {type(records).__name__} "
                f"{str(records)[:40]!r}."
            )
        reader = _fedit_fields(records[0]) if fields is None else fields
        examples[path.stem] = [
            reader.read(record, f"{path}: record {number}")[1]
            for number, record in enumerate(records, start=1)
        ]
    return examples


def _fedit_fields(record: Any) -> Fields:
    """Choose the fields by the names in a file's first record."""
    first = record if isinstance(record, dict) else {}
    return Fields(
        instruction="instruction",
        context="input" if "input" in first else "context",
        response="output" if "output" in first else "response",
        label="category" if "category" in first else None,
    )


def _parse(data: bytes, source: str) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}: expected UTF-8, got byte {data[error.start]:#04x} at {error.start}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: expected JSON, got {error}.") from None


def _columns(fields: Reader, columns: Iterable[str], source: str) -> list[str]:
    """The named columns that exist; every named column except the context must exist."""
    existing = list(columns)
    for meaning, name in fields.names().items():
        if name not in existing and meaning != "context":
            raise ValueError(
                f"{source}: field {name!r}: expected this field, got only "
                f"{', '.join(map(repr, existing))}."
            )
    return [name for name in dict.fromkeys(fields.names().values()) if name in existing]


def _read(rows: Iterable[Any], fields: Reader, source: str) -> list[tuple[str | None, Any]]:
    return [fields.read(row, f"{source}: row {number}") for number, row in enumerate(rows, start=1)]
