"""A federation on this machine: its processes, its rounds, and what it trained."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...algorithms.shared.base_changes import base_of
from ...flower.client_files import client_folder
from ...flower.installed import is_known
from ...flower.loopback import Loopback
from ...flower.server_app import last_standing, rows_file
from ...locks import locked
from ...simulation import Conditions
from ...simulation.checks import check_above_zero
from ...simulation.loop.arguments import check_every_round
from ..config import RunConfig
from ..delivery import check_save_base, deliver
from ..execute import Ended
from ..folder import check_same_run
from ..prepare import Run
from ..results import Row, read_lines, write_object, write_text
from ..rows import Trained, summary, versions
from ..stopping import Stop, stop_signals
from .parts import ABOUT, FAILURE, FOLDER, RUN, algorithm_of, federated_run, secure_sums
from .status import ClientStatus, Status

APP = """\
[project]
name = "federation"
version = "1.0.0"
description = "One run of fedjax-llm."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedjax-llm"

[tool.flwr.app.components]
serverapp = "fedjax_llm.runs.federated.server:app"
clientapp = "fedjax_llm.runs.federated.client:app"

[tool.flwr.app.config]
"""
"""The app that Flower is given: its code is that of this package, which every node has."""
_POLL_SECONDS = 0.25


def federate_locally(
    config: RunConfig,
    out: Path,
    *,
    nodes: int,
    show: Callable[[Status], None],
    stopping: Callable[[], AbstractContextManager[Stop]] = stop_signals,
    resume: bool = False,
    timeout: float | None = None,
    threshold: int | None = None,
    warm: bool | None = None,
    save_base: bool = False,
    cache: Path | None = None,
    plugins: Sequence[str] = (),
) -> Row:
    """Run a configuration over a SuperLink and SuperNodes on the loopback interface.

    Parameters and bytes are those of `train` with `client_axis="chunked(size=1)"`. All processes
    have ended when it returns or raises.

    Args:
        config: The run.
        out: Its folder: `server/` and `clients/` as `server_app` and `client_app` write them, a log
            of each process, `summary.json` and what was trained, as `train` writes them.
        nodes: Number of SuperNodes, one for each training client.
        show: Called with each change of the status.
        stopping: What asks the rounds to stop. Default: SIGTERM and SIGINT, which then end the
            process with status 128 plus the signal's number, after the federation's processes.
        resume: Continue the folder's run after its last completed round.
        timeout: Seconds to wait for the messages of a round; without end for None.
        threshold: Neighbours of a client that must answer at the end of a secure sum, which a run
            with `secure_mean()` has; more than half of them for None.
        warm: Whether a node is served by one Python process; see `Loopback`.
        save_base: Also write the frozen base of an adapter.
        cache: Folder for tokens.
        plugins: Modules that register components, which every process imports.

    Returns:
        The summary row.

    Raises:
        ChildProcessError: Where a process of the federation failed, with its last words.
        ValueError: For bad input, naming the field.

    """
    if timeout is not None:
        check_above_zero(timeout, who="federate", name="timeout", unit="seconds")
    run = federated_run(config, cache=cache)
    config, names = run.config, list(run.split.train.names)
    if len(names) != nodes:
        raise ValueError(
            f"local: expected {len(names)}, one node for each training client, got {nodes}; "
            f"--population {nodes} draws as many clients from the data."
        )
    check_every_round(algorithm_of(run), config.clients, nodes, Conditions(), who="federate")
    if secure_sums(run, threshold) and not (is_known() if warm is None else warm):
        raise ValueError(
            "cold: expected one process for each node with secure sums, whose keys are in its "
            "memory alone, got a new one for each message, as Flower has it without a worker."
        )
    if save_base:
        check_save_base(run)
    about = out / ABOUT
    if not resume and about.exists():
        raise ValueError(
            f"{out}: expected a folder without a run, got one with {ABOUT}; --resume continues it."
        )
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        same_end = check_same_run(out, run, ABOUT)
        done = out / "summary.json"
        if done.exists() and same_end:
            return json.loads(done.read_text(encoding="utf-8"))
        app = write_app(
            run, out, timeout=timeout, threshold=threshold, cache=cache, plugins=plugins
        )
        began = time.perf_counter()
        federation = Loopback(out, cwd=Path.cwd(), warm=warm, environment=environment(out))
        with stopping() as stop, federation as loopback:
            stop.doing = "ending the processes of the federation"
            loopback.start_nodes({node_name(name): {"client": name} for name in names})
            rows = _rounds(run, out, loopback, app, show, stop)
        row = _ended(run, out, rows, time.perf_counter() - began, save_base)
        write_object(done, row)
        return row


def write_app(
    run: Run,
    out: Path,
    *,
    timeout: float | None = None,
    threshold: int | None = None,
    cache: Path | None = None,
    plugins: Sequence[str] = (),
) -> Path:
    """Write what the processes of a federation read, and return the folder of Flower's app.

    Args:
        run: The run.
        out: Its folder.
        timeout: Seconds to wait for the messages of a round.
        threshold: As for `federate_locally`.
        cache: Folder for tokens.
        plugins: Modules that every process imports.

    """
    about = {
        "config": asdict(run.config),
        "contents": run.contents,
        "versions": versions(),
        "timeout": timeout,
        "threshold": threshold,
        "cache": cache and str(cache.absolute()),
        "plugins": list(plugins),
    }
    write_object(out / ABOUT, about)
    app = out / "app"
    app.mkdir(exist_ok=True)
    write_text(app / "pyproject.toml", APP)
    return app


def environment(out: Path) -> dict[str, str]:
    """What the processes of a federation find its folder by."""
    return {FOLDER: str(out.absolute())}


def node_name(client: str) -> str:
    """The name of a client's node, which its files have too."""
    return quote(client, safe="")


def _rounds(
    run: Run,
    out: Path,
    loopback: Loopback,
    app: Path,
    show: Callable[[Status], None],
    stop: Stop,
) -> Sequence[Row]:
    """Run the rounds that are left, and return the rows of all."""
    names, of = run.split.train.names, run.config.rounds
    (out / FAILURE).unlink(missing_ok=True)
    running, shown = loopback.run(app), None
    while True:
        ended = running.poll() is not None
        rows = _whole_rows(rows_file(out / "server", RUN))
        lost = [name for name in names if loopback.nodes[node_name(name)].ended]
        status = Status(rows, of, _clients(out, names, lost, rows))
        if status != shown:
            show(status)
            shown = status
        if stop.by:
            loopback.close()
            stop.end(
                f"stopped by {stop.by.name} after round {len(rows)} of {of}; "
                f"{stop.again.format(out=out)} continues it."
            )
        if loopback.superlink and loopback.superlink.poll() is not None:
            raise ChildProcessError(
                f"SuperLink: expected it to run until the last round, got its end with status "
                f"{loopback.superlink.returncode}: {loopback.last_words('superlink')}; "
                f"{stop.again.format(out=out)} continues the run."
            )
        if ended:
            break
        time.sleep(_POLL_SECONDS)
    if len(rows) < of:
        why = out / FAILURE
        said = why.read_text(encoding="utf-8") if why.exists() else loopback.last_words("run")
        raise ChildProcessError(
            f"expected {of} rounds, got {len(rows)}: {said}; {stop.again.format(out=out)} "
            "continues the run."
        )
    return rows


def _whole_rows(path: Path) -> list[Row]:
    """The rows that are whole: the last one may be half written."""
    if not path.exists():
        return []
    return [row for _, row in read_lines(path) if row]


def _clients(
    out: Path, names: Sequence[str], lost: Sequence[str], rows: Sequence[Row]
) -> list[ClientStatus]:
    """What the rows and the clients' own logs say of each client."""
    found = []
    for name in names:
        own = _whole_rows(client_folder(out / "clients", RUN, name) / "rounds.jsonl")
        last = own[-1] if own else {}
        sent = [row["by_client"].get(name, {}) for row in rows]
        drawn = [row for row in rows if name in row["clients"]]
        found.append(
            ClientStatus(
                name,
                name in lost,
                last.get("round", 0),
                last.get("loss"),
                sum(name in row["counted"] for row in rows),
                sum(each.get("up", 0) for each in sent),
                sum(each.get("down", 0) for each in sent),
                drawn[-1]["failed"].get(name, "") if drawn else "",
            )
        )
    return found


def _ended(run: Run, out: Path, rows: Sequence[Row], seconds: float, save_base: bool) -> Row:
    """Evaluate what was trained, write it, and make the summary."""
    standing = last_standing(
        algorithm_of(run),
        run.task.params,
        folder=out / "server",
        run=RUN,
        seed=run.config.seed,
    )
    if standing is None or standing.round != len(rows):
        raise ValueError(f"{out}: expected a checkpoint of round {len(rows)}, got {standing}.")
    trained = Trained(standing.state.params, base_of(standing.state, run.task.frozen))
    delivered = {"delivered": deliver(run, trained, out, save_base=save_base)}
    return summary(run, Ended([_as_trained(row) for row in rows], trained, seconds)) | delivered


def _as_trained(row: Mapping[str, Any]) -> Row:
    """A row of the server's app with the names of `train`'s rows."""
    return {
        "round": row["round"],
        "clients": row["clients"],
        "failed": len(row["failed"]),
        "uplink_bytes": row["up_bytes"],
        "downlink_bytes": row["down_bytes"],
        "sent": len(row["by_client"]),
        "answers": sum("up" in each for each in row["by_client"].values()),
    }
