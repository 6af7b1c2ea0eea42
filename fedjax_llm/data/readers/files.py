"""Records of files and tables, grouped by the client that a field names."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedjax_compression.checks import check_kind

from .examples import OPTIONAL, Reader, Records, check_reader, grouped
from .installed import missing
from .rows import csv_rows, is_lines, json_rows, opened
from .stored import LARGE, StoredRecords
from .values import plain


def jsonl(path: str | Path, fields: Reader) -> Records:
    r"""Read a file with one JSON object per line, or with a JSON array of objects, in UTF-8.

    A file that is compressed by gzip is read as what is in it.

    Of JSON lines of 64 MiB and more, the records stay on disk: each is read when it is asked for,
    and memory holds 24 bytes for it. The result is then a mapping that cannot be changed, of
    sequences that are no lists; `{client: list(each) for client, each in found.items()}` reads all.

    Args:
        path: The file.
        fields: `Fields`, `PairFields` or `QuestionFields`: which fields of a record to read.

    Returns:
        The records of each client, clients sorted by name. Without a client field, all records
        belong to one client with the name of the file, less its suffix.

    Raises:
        TypeError: For `fields` of another kind.
        ValueError: For a bad record, naming file, line and field; for a file without records, and
            for a Git LFS pointer in place of a file.

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
    if path.stat().st_size >= LARGE and is_lines(path):
        return StoredRecords(path, fields, _stem(path))
    return grouped(json_rows(path), fields, name=_stem(path))


def csv(path: str | Path, fields: Reader) -> Records:
    r"""Read a CSV file with a header, in UTF-8.

    A value in quotes may have several lines. A file that is compressed by gzip is read as what is
    in it.

    Args:
        path: The file.
        fields: `Fields`, `PairFields` or `QuestionFields`: which columns to read.

    Returns:
        The records of each client, clients sorted by name. Without a client column, all records
        belong to one client with the name of the file, less its suffix.

    Raises:
        TypeError: For `fields` of another kind.
        ValueError: For a bad record, naming file, line and field; for a file without records, and
            for a Git LFS pointer in place of a file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.data import Fields, csv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "notes.csv")
        ...     _ = path.write_text('user,text\nbob,Hi\nann,"Yes,\nplease"\n')
        ...     examples = csv(path, Fields(text="text", client="user"))
        >>> {client: [example.text for example in each] for client, each in examples.items()}
        {'ann': ['Yes,\nplease'], 'bob': ['Hi']}

    """
    check_reader(fields, who="csv")
    path = Path(path)
    return grouped(csv_rows(path), fields, name=_stem(path))


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
            row and column; for a file without records, and for a Git LFS pointer in place of a
            file.
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
        with opened(path) as data, ParquetFile(data) as file:
            columns = _columns(fields, file.schema_arrow.names, str(path))
            rows = [row for part in file.iter_batches(columns=columns) for row in part.to_pylist()]
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # pyarrow raises both kinds
        named = str(path) in str(error)
        raise ValueError(str(error) if named else f"{path}: {error}") from None
    return grouped(_numbered(rows, str(path)), fields, name=_stem(path))


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
        >>> {client: [(e.text, e.source) for e in each] for client, each in examples.items()}
        {'ann': [('Yes', 'notes: row 2')], 'bob': [('Hi', 'notes: row 1')]}

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
    return grouped(_numbered(rows, name), fields, name=name)


def _columns(fields: Reader, columns: Iterable[str], source: str) -> list[str]:
    """The named columns that exist; every named column must exist but those that are optional."""
    existing = list(columns)
    for meaning, name in fields.names().items():
        if name not in existing and meaning not in OPTIONAL:
            raise ValueError(
                f"{source}: field {name!r}: expected this field, got only "
                f"{', '.join(map(repr, existing))}."
            )
    return [name for name in dict.fromkeys(fields.names().values()) if name in existing]


def _numbered(rows: Iterable[Any], source: str) -> Iterable[tuple[str, Any]]:
    return ((f"{source}: row {number}", plain(row)) for number, row in enumerate(rows, start=1))


def _stem(path: Path) -> str:
    """The name of a file without .gz and without its suffix."""
    return Path(path.stem).stem if path.suffix == ".gz" else path.stem
