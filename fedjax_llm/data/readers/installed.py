"""Optional packages that contain texts or read files."""

import importlib.util
from pathlib import Path


def folder_of(module: str, *, package: str, extra: str, who: str) -> Path:
    """Find the folder of an installed package without importing it.

    Raises `ModuleNotFoundError` with the command that installs it where it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise missing(package, extra=extra, who=who)
    return Path(spec.submodule_search_locations[0])


def missing(package: str, *, extra: str, who: str) -> ModuleNotFoundError:
    """The error of a package that is not installed."""
    return ModuleNotFoundError(
        f"{who}: expected the package {package}, got none; pip install 'fedjax-llm[{extra}]'."
    )
