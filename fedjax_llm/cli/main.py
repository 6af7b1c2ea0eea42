"""The `fedjax-llm` command: its subcommands, and how it answers bad input."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from ..runs import RunConfig
from .bench import bench
from .codecs import codecs
from .frontier import QUICK, frontier_from
from .train import train


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends it with one line on standard error and status 2."""
    args = sys.argv[1:] if args is None else list(args)
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "codecs": codecs,
        "bench": bench,
        "frontier": frontier_from(QUICK if "--quick" in args else RunConfig()),
    }
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="fedjax-llm",
            description="Federated training of language models, with every byte counted.",
            args=args,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"fedjax-llm: {error}", file=sys.stderr)
        raise SystemExit(2) from None
