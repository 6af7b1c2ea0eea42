"""The subcommands of `fedjax-llm`, and their help."""

import functools
import io
import re
import textwrap
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro

from .._version import __version__
from ..runs import RunConfig
from ..runs.registries import names_by_field, summary_line
from .bench import bench
from .codecs import codecs
from .federate import federate
from .frontier import QUICK, frontier_from
from .report import report
from .study import study
from .train import train


def run(args: Sequence[str]) -> None:
    """Run a subcommand.

    Args:
        args: The words after `fedjax-llm`.

    Raises:
        SystemExit: After the help.
        ValueError: For words that are no command or no flag, and for bad input.

    """
    args = list(args)
    if args == ["--version"]:
        print(f"fedjax-llm {__version__}")
        return
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "federate": federate,
        "codecs": codecs,
        "bench": bench,
        "frontier": frontier_from(QUICK if "--quick" in args else RunConfig()),
        "report": report,
        "study": study,
    }
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            start = tyro.extras.subcommand_cli_from_dict(
                {name: _parsed(command) for name, command in commands.items()},
                prog="fedjax-llm",
                description="Federated training of language models, with every byte counted.",
                args=args,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as ended:
        if ended.code:
            raise ValueError(_one_line(said.getvalue())) from None
        if args[0] in ("train", "federate", "frontier"):
            print(names())
        raise
    start()


def _parsed(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command with its arguments, to be started once they are all read."""

    @functools.wraps(command)
    def bound(*args: Any, **kwargs: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    return bound


def _one_line(box: str) -> str:
    """The error in a box that tyro draws, with the flags that it suggests."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    what, *others = re.split(r"\n[─-]+\n", "\n".join(lines))
    if "╭" not in box:  # without the characters for a frame, the title is a part of its own
        what, *others = others or [what]
    flags = [
        line.split()[0]
        for each in others
        if each.startswith("Perhaps you meant")
        for line in each.splitlines()
        if line.startswith("-")
    ]
    hint = f" (did you mean {' or '.join(flags)}?)" if flags else ""
    return f"{' '.join(what.split()).rstrip('.')}{hint}."


def names() -> str:
    """The names that each text flag may take, one line each."""
    lines = []
    for fields, factories in names_by_field().items():
        flags = ", ".join(f"--{field.replace('_', '-')}" for field in fields.split(", "))
        lines.append(f"\nNames that {flags} may take:")
        lines += [
            f"  {name:23} {textwrap.shorten(summary_line(factories[name]), 74, placeholder=' ...')}"
            for name in sorted(factories)
        ]
    return "\n".join(lines)
