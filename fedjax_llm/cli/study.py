"""`fedjax-llm study`."""

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from ..runs import Row
from ..runs.registries import load_plugins
from ..studies import Study, finished_rows, run_study, table
from .output import failures, keep_programs, print_table


def study(
    file: Annotated[Path, tyro.conf.Positional],
    together: bool = False,
    compilation_cache: Path | None = None,
    plugin: tuple[str, ...] = (),
    finished: bool = False,
    out: Path = Path("runs/study"),
) -> None:
    """Compare configurations that differ in any fields: results.jsonl, study.json and a picture
    for each cost in a folder, and tuning.jsonl where they are tuned.

    Args:
        file: Python file, run as a plugin is, that gives the name study to a
            fedjax_llm.Study.
        together: Run the seeds of a configuration as one program: equal to rounding, and faster
            where one run does not fill the device, for the memory of all.
        compilation_cache: Folder in which compiled programs are kept for later commands, at most
            1 GiB. Default: fedjax-llm/programs in the user's cache folder; `off` keeps none.
        plugin: Modules that register codecs, methods or data of your own.
        finished: Show what is finished in the folder, and run nothing.
        out: Folder for the results; runs whose row is already there are not run again.

    """
    load_plugins(plugin)
    keep_programs(compilation_cache)
    found = study_in(file)
    if finished:
        rows, wanted = finished_rows(out)
        print_table(table(rows, found.drawn(rows)[-1], target=found.target, wanted=wanted))
        return
    show(found, run_study(found, out=out, together=together), out)


def show(found: Study, rows: Sequence[Row], out: Path) -> None:
    """Print a study's table for each of its costs, what failed, and its files."""
    costs = found.drawn(rows)
    names = ("results.jsonl", *(cost.file for cost in costs))
    files = "  ".join(str(out / name) for name in names)
    shown = costs if len(found.costs) > 1 else costs[-1:]
    for cost in shown[:-1]:
        shorter = table(rows, cost, target=found.target)
        shorter.caption = None  # the notes stand below the last table
        print_table(shorter)
    print_table(table(rows, shown[-1], target=found.target), *failures(rows), files)


def study_in(file: Path) -> Study:
    """Run a Python file and return its `study`.

    Raises `ValueError` for a file that is none, that raises, by its line, or that has no study.
    """
    if not file.is_file() or file.suffix != ".py":
        raise ValueError(f"study: expected a Python file such as study.py, got {str(file)!r}.")
    spec = importlib.util.spec_from_file_location(f"study_file_{file.stem}", file.resolve())
    if spec is None or spec.loader is None:
        raise ValueError(f"study: expected a Python file, got {str(file)!r}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"study: {_where(file, error)}: {_said(error)}") from error
    found = getattr(module, "study", None)
    if not isinstance(found, Study):
        raise ValueError(
            f"study: {file}: expected study = Study([RunConfig(...), ...]), got "
            f"{'no study' if found is None else repr(found)}."
        )
    return found


def _where(file: Path, error: Exception) -> str:
    """The file, with the line of it that an error came from."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{file}, line {error.lineno}"
    name = str(file.resolve())
    lines = [
        each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == name
    ]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _said(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}."
    text = str(error).rstrip(".")
    return f"{type(error).__name__}: {text}."
