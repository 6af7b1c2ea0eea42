"""The `fedjax-llm` command from its start to its exit status.

Nothing else is imported here, so that a signal is answered while the rest is.
"""

import os
import sys
from collections.abc import Sequence

from ..signals import SIGNALS, answer_signals, end_process


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Bad input ends it with one line on standard error and status 2, and so does a lack of memory.

    Args:
        args: The words after `fedjax-llm`. By default those of the process, which SIGINT and
            SIGTERM then end with one line and status 130 or 143, at any moment.

    """
    if args is not None:
        _run(args)
        return
    answer_signals()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's remarks; its errors are raised
    try:
        _run(sys.argv[1:])
    except SystemExit as ended:
        if ended.code in [128 + which for which in SIGNALS]:
            end_process(ended.code)  # threads may still be busy with what is no longer wanted
        raise


def _run(args: Sequence[str]) -> None:
    try:
        from .commands import run  # noqa: PLC0415 - takes seconds

        run(args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _refuse(str(error))
    except MemoryError as error:
        _refuse(_out_of_memory(error))
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _refuse(_out_of_memory(error))


def _refuse(why: str) -> None:
    print(f"fedjax-llm: {' '.join(why.split())}", file=sys.stderr)
    raise SystemExit(2) from None


def _out_of_memory(error: Exception) -> str:
    what = str(error).split("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ").rstrip(".")
    return (
        f"out of memory: {what or 'an allocation failed'}; a smaller seq, batch, model or number "
        "of clients needs less, and so does client_axis scan()."
    )
