"""Finished results as a pandas frame."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..runs.results import flat
from .report.read import read_folder

if TYPE_CHECKING:
    import pandas


def results(folder: Path | str) -> "pandas.DataFrame":
    r"""Read every run in a folder into a frame, a row for each run.

    Columns have the names of the fields of `summary.json` and `results.jsonl`; those of nested
    objects are such as `config.uplink`, `config.decoder.hidden_size` and `versions.jax`. Two
    columns come first: `where`, the file that a row is from, and `state`, which is empty for a
    finished run and says for others how far they got. A field that a run does not have is missing
    in its row. Tuning runs, in `tuning.jsonl`, are left out.

    Args:
        folder: What `train`, `frontier` or `study` wrote, or a folder that holds such folders.

    Returns:
        The frame, sorted by folder and by the lines of their files.

    Warns:
        UserWarning: For each thing that is not whole, such as a cut line, or a study of which runs
            are missing.

    Raises:
        ModuleNotFoundError: Without pandas; `pip install 'fedjax-llm[pandas]'`.
        ValueError: For a folder that holds no run.

    Example:
        >>> import json, pathlib, tempfile
        >>> from fedjax_llm import results
        >>> rows = [
        ...     {"codec": codec, "uplink_bytes": sent, "config": {"uplink": codec, "seed": 0}}
        ...     for codec, sent in (("identity()", 3200), ("eden(bits=1)", 100))
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines = "".join(json.dumps(row) + "\n" for row in rows)
        ...     _ = pathlib.Path(folder, "results.jsonl").write_text(lines)
        ...     frame = results(folder)
        >>> frame[["config.uplink", "uplink_bytes"]].values.tolist()
        [['identity()', 3200], ['eden(bits=1)', 100]]
        >>> frame["where"].tolist()
        ['results.jsonl, line 1', 'results.jsonl, line 2']

    """
    try:
        import pandas  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "results: expected the package pandas, got none; pip install 'fedjax-llm[pandas]'."
        ) from None
    folder = Path(folder)
    found = read_folder(folder)
    if not found.runs:
        raise ValueError(
            f"results: {folder}: expected a folder with summary.json, run.json or results.jsonl of "
            f"a run, or one that holds such folders, got {_instead(folder)}."
        )
    for note in found.notes:
        warnings.warn(f"results: {note}", stacklevel=2)
    return pandas.DataFrame(
        [{"where": run.where, "state": run.state, **flat(run.row)} for run in found.runs]
    )


def _instead(folder: Path) -> str:
    if folder.is_dir():
        return "none"
    return "a file" if folder.exists() else "no folder"
