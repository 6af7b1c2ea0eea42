"""`fedjax-llm federate`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..runs import Row, RunConfig
from ..runs.federated.parts import check_applies, drawn
from ..runs.federated.status import Status
from ..runs.live import line, mebibytes, on_terminal
from ..runs.registries import load_plugins
from ..runs.stopping import stop_signals
from ..studies import table
from .output import keep_programs, nats, print_table

LOCAL = RunConfig(rounds=5, clients=4)
"""The defaults of `federate`."""


def federate(
    run: RunConfig = LOCAL,
    local: int = 4,
    cache: Path | None = None,
    out: Path = Path("runs/federate"),
    resume: bool = False,
    save_base: bool = False,
    timeout: float | None = None,
    threshold: int | None = None,
    cold: bool = False,
    compilation_cache: Path | None = None,
    plugin: tuple[str, ...] = (),
) -> None:
    """Train over Flower on this machine: a SuperLink, a SuperNode for each client and a run, on the
    loopback interface alone, with the parameters and bytes of `train` with the client axis
    chunked(size=1). All processes end with the command.

    Args:
        run: The run. Flags of what is only simulated are refused.
        local: Number of SuperNodes, one for each training client. Unless --population is given,
            that many clients are drawn from the data.
        cache: Folder in which the tokens of a pretrained model's tokenizer are kept for later runs.
        out: Folder for the results and the logs; one that holds a run is refused without --resume.
        resume: Continue the run in the folder after its last completed round, to the same bits.
        save_base: Also write the frozen base of an adapter to base/, for peft to open.
        timeout: Seconds to wait for the messages of a round; clients that are late count as
            failed. Default: until Flower gives a node up, after about 72 seconds.
        threshold: Neighbours of a client that must answer at the end of a secure sum, which a run
            with --aggregate "secure_mean()" has: with fewer the round fails, and nobody learns
            anything. Default: more than half of the other clients.
        cold: Start a Python process for each message, as Flower does. Default: one for each node.
        compilation_cache: Folder in which this command's compiled programs are kept for later
            commands, at most 1 GiB. Default: fedjax-llm/programs in the user's cache folder; `off`
            keeps none. The nodes keep theirs in --out.
        plugin: Modules that register codecs, methods or data of your own, such as mypkg.codecs.

    """
    check_applies(run)
    from ..runs.federated.local import federate_locally  # noqa: PLC0415 - needs the extra flower

    load_plugins(plugin)
    keep_programs(compilation_cache)
    with _shown(run.rounds) as show:
        row = federate_locally(
            drawn(run, local),
            out,
            nodes=local,
            show=show,
            stopping=stop_signals,
            resume=resume,
            timeout=timeout,
            threshold=threshold,
            warm=False if cold else None,
            save_base=save_base,
            cache=cache,
            plugins=plugin,
        )
    print_table(
        table([row]),
        f"{'federated':12} {nats(row)}",
        f"{out / 'summary.json'}  digest {row['digest']}",
        *(f"{out / place}  {what}" for place, what in row.get("delivered", {}).items()),
    )


@contextmanager
def _shown(rounds: int) -> Iterator[Callable[[Status], None]]:
    """A table of clients that changes in place on a terminal; elsewhere a line for each round."""
    said = 0

    def say(status: Status) -> None:
        nonlocal said
        for row in status.rounds[said:]:
            line(_round_line(row, rounds))
        said = len(status.rounds)

    if not on_terminal():
        yield say
        return
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield lambda status: live.update(clients_table(status), refresh=True)


def clients_table(status: Status) -> Table:
    """The table of clients.

    Args:
        status: What is known of the federation.

    """
    shown = Table(title=f"round {len(status.rounds)} of {status.of}")
    for name in ("client", "node", "trained", "loss", "counted", "up", "down", "why not"):
        shown.add_column(name)
    for each in status.clients:
        shown.add_row(
            each.name,
            "lost" if each.lost else "up",
            f"round {each.trained}" if each.trained else "",
            "" if each.loss is None else f"{each.loss:.3f}",
            str(each.counted),
            mebibytes(each.up),
            mebibytes(each.down),
            each.failure,
        )
    return shown


def _round_line(row: Row, rounds: int) -> str:
    """A round in one line."""
    bytes_sent = f"up {mebibytes(row['up_bytes'])}, down {mebibytes(row['down_bytes'])}"
    count = f"{len(row['counted'])} of {len(row['clients'])} clients counted"
    failed = "".join(f"; {name}: {why}" for name, why in row["failed"].items())
    return f"round {row['round']} of {rounds}: {count}, {bytes_sent}{failed}"
