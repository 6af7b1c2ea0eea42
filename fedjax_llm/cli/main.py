"""The `fedjax-llm` command: its subcommands, its help, and how it answers bad input."""

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from .._version import __version__
from ..runs import RunConfig
from ..runs.registries import names_by_field, summary_line
from .bench import bench
from .codecs import codecs
from .frontier import QUICK, frontier_from
from .train import train


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Bad input ends it with one line on standard error and status 2.

    Args:
        args: The words after `fedjax-llm`; those of the process by default.

    """
    args = sys.argv[1:] if args is None else list(args)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it reports that torch is missing
    if args == ["--version"]:
        print(f"fedjax-llm {__version__}")
        return
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "codecs": codecs,
        "bench": bench,
        "frontier": frontier_from(QUICK if "--quick" in args else RunConfig()),
    }
    helping = {"-h", "--help"} & set(args)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="fedjax-llm",
            description="Federated training of language models, with every byte counted.",
            args=args,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except SystemExit:
        if helping and args[0] in ("train", "frontier"):
            print(names())
        raise
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"fedjax-llm: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def names() -> str:
    """The names that each text flag may take, one line each."""
    lines = []
    for fields, factories in names_by_field().items():
        flags = ", ".join(f"--{field.replace('_', '-')}" for field in fields.split(", "))
        lines.append(f"\nNames that {flags} may take:")
        lines += [
            f"  {name:20} {textwrap.shorten(summary_line(factories[name]), 77, placeholder=' ...')}"
            for name in sorted(factories)
        ]
    return "\n".join(lines)
