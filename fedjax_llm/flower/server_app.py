"""The server of a federation as a Flower app, which resumes from its own checkpoints."""

import json
from collections.abc import Callable, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_function, check_kind
from fedjax_compression.errors import message
from flwr.app import Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from jaxtyping import PyTree

from .._version import __version__
from ..algorithm import FederatedAlgorithm
from ..client_training import Frozen, Params
from ..ledger import total_bytes
from ..locks import locked
from ..simulation import RunCheckpoints, Snapshot, StoreRows
from ..simulation.loop.arguments import check_algorithm
from ..simulation.loop.programs import first_state
from .federate import MOST_TARGETS, FlowerRound, Standing, federate
from .secure_sums import SecureSums


def server_app(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    batches: PyTree,
    names: Sequence[str],
    *,
    folder: Path,
    run: str,
    rounds: int,
    clients: int,
    seed: int,
    timeout: float | int | None = None,
    join_seconds: float | int = 60,
    most_targets: int = MOST_TARGETS,
    each: Callable[[FlowerRound], None] | None = None,
    secure: SecureSums | None = None,
) -> ServerApp:
    """Make the Flower app of the server: `federate`, with checkpoints and a row for each round.

    In `folder`, under the run's name, are `checkpoints` and `rounds.jsonl`. A checkpoint is written
    after every round, before the next one begins, as clients keep their states of two rounds and no
    more. A run that ended early resumes when the app runs again with the same arguments (a greater
    `rounds` trains on), to the same bits: `flwr run` once more. Flower itself resumes no run.

    A row has `round`, the names in `clients` and `counted`, the reasons in `failed`, the bytes of
    all messages `up_bytes` and `down_bytes` with their headers, those of each client that was sent
    one in `by_client` as `{"up": ..., "down": ...}`, and apart from them what Flower adds,
    `up_envelope_bytes` and `down_envelope_bytes`. The log has a line for each client that failed.

    Args:
        algorithm: The algorithm, the same one as the clients'.
        params: Initial trainable parameters.
        frozen: Frozen parameters or their structure.
        batches: Structure of one client's batches.
        names: The names of all clients, sorted.
        folder: Folder on the server's disk.
        run: The run's name; a run under a new name starts afresh, at the clients too.
        rounds: Number of the last round.
        clients: Clients in a cohort.
        seed: Seed of the run.
        timeout: Seconds to wait for the messages of a round; by default without end.
        join_seconds: Seconds to wait at the beginning for all clients to appear; 60 by default.
        most_targets: Most targets that a client may claim; 2^31 - 1 by default.
        each: Called with every round's result, such as to evaluate its parameters. Default: none.
        secure: Parameters of secure sums, as for `federate`; the same at the clients.

    Returns:
        The app, with a main function.

    Raises:
        TypeError: For an argument of the wrong kind. From the app, whatever `federate` raises.
        ValueError: From the app, for a folder whose run had other arguments, and for one that
            another process writes to.

    """
    who = "server_app"
    check_algorithm(algorithm, who=who)
    check_kind(folder, Path, who=who, name="folder", expected="a pathlib.Path")
    check_kind(run, str, who=who, name="run", expected="a text")
    if each is not None:
        check_function(each, who=who, name="each", signature="(flower_round) -> None")
    notes = {
        "version": __version__,
        "names": list(names),
        "clients": clients,
        "seed": seed,
        "most_targets": most_targets,
        "secure": secure and list(secure),
    }
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        rows = rows_file(folder, run)
        rows.parent.mkdir(parents=True, exist_ok=True)
        with locked(rows.parent), RunCheckpoints(rows.with_name("checkpoints")) as checkpoints:
            start = _resume(checkpoints, first_state(algorithm, jr.key(seed), params), notes)
            _cut(rows, start.round if start else 0)
            for done in federate(
                grid,
                algorithm,
                params,
                frozen,
                batches,
                names,
                run=run,
                rounds=rounds,
                clients=clients,
                seed=seed,
                timeout=timeout,
                join_seconds=join_seconds,
                most_targets=most_targets,
                start=start,
                secure=secure,
            ):
                for name, why in done.failed.items():
                    log(WARNING, "round %d: %s did not count: %s", done.round, name, why)
                if each:
                    each(done)
                with rows.open("a") as file:
                    file.write(json.dumps(round_row(done, names)) + "\n")
                checkpoints.save(_snapshot(done.standing), notes)
                checkpoints.wait()

    return app


def last_standing(
    algorithm: FederatedAlgorithm, params: Params, *, folder: Path, run: str, seed: int
) -> Standing | None:
    """What the app of `server_app` has reached, by its newest checkpoint.

    Args:
        algorithm: The algorithm.
        params: Initial trainable parameters.
        folder: The server's folder.
        run: The run's name.
        seed: Seed of the run.

    Returns:
        The standing; None before the first round.

    """
    with RunCheckpoints(_place(folder, run) / "checkpoints") as checkpoints:
        return _resume(checkpoints, first_state(algorithm, jr.key(seed), params), {})


def rows_file(folder: Path, run: str) -> Path:
    """Where the app of `server_app` writes its rows.

    Args:
        folder: The server's folder.
        run: The run's name.

    """
    return _place(folder, run) / "rounds.jsonl"


def round_row(done: FlowerRound, names: Sequence[str]) -> dict[str, Any]:
    """The row of a round, of values that JSON can hold.

    Args:
        done: The round's result.
        names: The names of all clients.

    Returns:
        The values by name; `server_app` says which.

    """
    by_client: dict[str, dict[str, int]] = {}
    for each in done.messages:
        of_client = by_client.setdefault(names[each.client], {})
        so_far = of_client.get(each.direction, 0)
        of_client[each.direction] = so_far + each.payload_bytes + each.header_bytes
    return {
        "round": done.round,
        "clients": list(done.clients),
        "counted": list(done.counted),
        "failed": done.failed,
        "up_bytes": total_bytes(done.messages, "up"),
        "down_bytes": total_bytes(done.messages, "down"),
        "by_client": by_client,
        "up_envelope_bytes": done.envelope[0],
        "down_envelope_bytes": done.envelope[1],
    }


def _place(folder: Path, run: str) -> Path:
    return folder / f"run-{quote(run, safe='')}"


def _snapshot(standing: Standing) -> Snapshot:
    """As a snapshot, whose client states are the rounds that counted."""
    rows = StoreRows(np.arange(len(standing.counted)), standing.counted)
    return Snapshot(standing.round, standing.state, rows)


def _resume(checkpoints: RunCheckpoints, state: PyTree, notes: dict[str, Any]) -> Standing | None:
    """The newest checkpoint, if it is of this run."""
    restored = checkpoints.restore(state, np.zeros((), np.int64))
    if restored is None:
        return None
    for name, value in notes.items():
        if restored.notes.get(name) != value:
            got = restored.notes.get(name)
            remedy = "give the run another name, or go on with its own arguments"
            raise ValueError(message("server_app", name, f"{value!r}, as given", got, remedy))
    return Standing(
        restored.snapshot.round, restored.snapshot.state, restored.snapshot.store.states
    )


def _cut(rows: Path, last: int) -> None:
    """Leave out the rows of rounds that a lost checkpoint would have had."""
    if rows.exists():
        lines = rows.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["round"] <= last]
        draft = rows.with_suffix(".draft")
        draft.write_text("".join(kept))
        draft.replace(rows)
