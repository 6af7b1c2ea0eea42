"""Writing a folder's report."""

from pathlib import Path

from ...runs.results import write_text
from .data import page_data
from .page import render


def report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write a folder's results as one HTML page, which needs no network and no other file.

    Args:
        folder: A folder that a command wrote, or one that holds such folders.
        out: The file to write. Default: `report.html` in the folder.

    Returns:
        The file. It has the same bytes for the same results.

    Raises:
        ValueError: For a folder without results, or a folder in the place of `out`.

    """
    folder = Path(folder)
    page = render(page_data(folder))
    path = folder / "report.html" if out is None else Path(out)
    if path.is_dir():
        raise ValueError(f"{path}: expected a file to write to, got a folder; name the file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path
