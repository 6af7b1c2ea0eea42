"""`fedjax-llm report`."""

from pathlib import Path

import tyro

from .. import studies


def report(folder: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Show the results in a folder as one HTML page, which needs no network and no other file.

    Args:
        folder: What train, frontier, study or codecs wrote, or a folder of such folders.
        out: File to write. Default: report.html in the folder.

    """
    print(studies.report(folder, out))
