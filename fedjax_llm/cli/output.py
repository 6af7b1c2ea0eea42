"""What commands share: folders to write to, and lines for the terminal."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from ..runs import Row
from ..runs.live import line as say


def results_folder(path: Path) -> Path:
    """The folder, made where it is missing.

    Raises `ValueError` where a file is in its place.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a folder to write to, got a file.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def fresh_results(out: Path, name: str) -> Path:
    """The path of a result file in a folder; refuses a folder that has it."""
    results = results_folder(out) / name
    if results.exists():
        raise ValueError(f"{out}: expected a folder without results, got one with {name}.")
    return results


MOST_PROGRAMS = 2**30
"""Bytes of kept programs beyond which the ones that were not used for longest are removed."""
OFF = Path("off")


def keep_programs(folder: Path | None) -> None:
    """Keep this process's compiled programs for later commands, and reuse what is kept.

    They lie in the folder; for None in fedjax-llm/programs of the user's cache folder, or where
    JAX_COMPILATION_CACHE_DIR says, which is left as it is; for `OFF` nowhere. A folder that cannot
    be written is named in a line, and nothing is kept.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if folder is None and jax.config.values["jax_compilation_cache_dir"]:
        return
    if folder is not None:
        jax.config.update("jax_enable_compilation_cache", True)
    try:
        folder = _programs_of_user() if folder is None else folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError) as error:
        say(f"compiled programs are not kept: {error}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MOST_PROGRAMS)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _programs_of_user() -> Path:
    """Where programs are kept by default. Raises `RuntimeError` for a user without a home."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "fedjax-llm" / "programs"


def failures(rows: Sequence[Row]) -> list[str]:
    """One line for each run in which updates were not finite."""
    return [
        f"{row['codec']}, seed {row['seed']}: {row['failed']} updates were not finite and were "
        "left out."
        for row in rows
        if row["failed"]
    ]


def nats(row: Row) -> str:
    """A row's losses on held-out data, in words."""
    of_tokens = any(key.endswith("nats_per_token") for key in row)
    return ", ".join(
        f"{row[key]:.4f} {key.replace('_', ' ')}"
        for which in ("heldout", "personal", "unseen")
        for what in (
            "nats_per_token" if of_tokens else "nats_per_byte",
            "nats_per_pair",
            "preferred",
            "nats_per_text",
            "accuracy",
        )
        if (key := f"{which}_{what}") in row
    )


def print_table(table: object, *lines: str) -> None:
    """Print a table and lines, 200 columns wide where the output is no terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)
