"""Percent scripts as notebooks, and kernels that run their cells."""

import os
from pathlib import Path

import jupytext
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
SECONDS = 600
"""Most seconds that a cell may take."""


def notebook(script):
    """A percent script's text as a notebook."""
    return jupytext.reads(script, fmt="py:percent")


def with_settings(found, settings):
    """The notebook with a cell of settings below the one tagged `parameters`."""
    ours = notebook(f"# %%\n{settings}\n").cells[0]
    place = next(i for i, c in enumerate(found.cells) if "parameters" in c.metadata.get("tags", ()))
    found.cells.insert(place + 1, ours)
    return found


def kernel(found, folder):
    """A client whose kernel runs in a folder with this checkout."""
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(found, timeout=SECONDS, kernel_name="python3", resources=resources)


def environment():
    """What a kernel's process is started with: this checkout, and programs that compile fast."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "compression")])
    return {**os.environ, "PYTHONPATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def said(cell):
    """What a cell wrote to both streams."""
    return "".join(out["text"] for out in cell.outputs if out.output_type == "stream")


def shown(cell):
    """The MIME types of what a cell displayed."""
    data = (
        out.data for out in cell.outputs if out.output_type in ("display_data", "execute_result")
    )
    return [set(each) for each in data]
