"""Rows: one for each round, and a summary of the run."""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree

from ..algorithm import ServerState
from ..algorithms.shared.base_changes import base_of
from ..ledger import total_bytes
from ..simulation import Round, Snapshot, StoreRows
from ..simulation.digest import digest
from .prepare import Run
from .quality import Watched, evaluated_sizes, personal_quality, quality
from .results import Row


class Trained(NamedTuple):
    """A run's result.

    Attributes:
        params: The trained parameters.
        frozen: The task's frozen parameters, with what the method added to them.
        clients: The states of the clients that were in a round, where clients have models of their
            own; None for methods without personal models.

    """

    params: PyTree
    frozen: PyTree
    clients: StoreRows | None = None


def trained_by(
    run: Run, state: ServerState | None, snapshot: Callable[[], Snapshot | None]
) -> Trained:
    """What a run trained.

    Args:
        run: The run.
        state: The last server state; None before the first round.
        snapshot: `() -> snapshot` of the last round.

    """
    params = run.task.params if state is None else state.params
    ended = snapshot() if run.algorithm.personal else None
    return Trained(params, base_of(state, run.task.frozen), ended and ended.store)


class Ended(NamedTuple):
    """What the rounds of a run left.

    Attributes:
        rows: The rows of all rounds.
        trained: What they trained.
        seconds: Wall-clock seconds of the rounds.

    """

    rows: Sequence[Row]
    trained: Trained
    seconds: float


def summary(run: Run, ended: Ended, watched: Watched | None = None) -> Row:
    """Evaluate a run whose rounds ended, and make its summary row.

    Args:
        run: The run.
        ended: What its rounds left.
        watched: Who is told of the evaluation's progress and may end it; the row then has what was
            measured so far, and `stopped`.

    """
    watched = watched or Watched()
    rows, trained, seconds = ended
    params, frozen, clients = trained
    row = watched.begin(
        {
            "algorithm": run.config.algorithm,
            "codec": run.config.uplink,
            "seed": run.config.seed,
            "unit": run.unit,
            "rounds": len(rows),
            **_bytes(run, rows),
            **_evaluations(run, rows),
            "failed": None if run.private else sum(row["failed"] for row in rows),
            "digest": _digest(run, trained),
            "seconds": round(seconds, 3),
            "versions": versions(),
            "device": str(jax.devices()[0].device_kind),
            "contents": run.contents,
            "config": asdict(run.config),
            **evaluated_sizes(run),
            **({"label_names": list(labels)} if (labels := run.workload.label_names) else {}),
            **({"left_out": left_out} if (left_out := run.workload.left_out) else {}),
            **({"privacy": run.private.row(len(rows))} if run.private else {}),
        }
    )
    row |= quality(run, params, frozen, watched)
    if clients:
        row |= watched.add(personal_quality(run, params, frozen, clients, watched))
    return watched.so_far() if watched.ended else row


def _digest(run: Run, trained: Trained) -> str:
    """Digest of the trained parameters, with the base and the client states that belong to them."""
    if trained.frozen is run.task.frozen:
        trained = trained._replace(frozen=None)
    alone = trained.frozen is None and trained.clients is None
    return digest(trained.params if alone else trained)


def round_row(run: Run, finished: Round) -> Row:
    """The row of a round; with noise for privacy, without what is told of clients without noise."""
    info, targets = finished.client_info, finished.client_info.targets
    seen = np.isfinite(info.loss) * targets
    row = {
        "round": finished.round,
        f"train_nats_per_{run.unit}": (
            float(np.nan_to_num(info.loss) @ seen / seen.sum()) if seen.any() else None
        ),
        "accepted": int(finished.server_info.accepted),
        "failed": int(finished.server_info.failed),
        "update_norm": float(finished.server_info.update_norm),
        **({} if (clipped := finished.server_info.clipped) is None else {"clipped": int(clipped)}),
        "uplink_bytes": total_bytes(finished.messages, "up"),
        "downlink_bytes": total_bytes(finished.messages, "down"),
        "header_bytes": sum(entry.header_bytes for entry in finished.messages),
        "clients": _names(run, finished.clients),
        **(
            {}
            if finished.malicious is None
            else {"malicious": _names(run, finished.clients[finished.malicious])}
        ),
        **_of_plan(run, finished),
    }
    return run.private.withheld(row, run.unit) if run.private else row


def _of_plan(run: Run, finished: Round) -> Row:
    """Fields of faults, deadlines and simulated time; none for a run without them."""
    row: Row = {}
    if run.conditions.network:
        row["simulated_seconds"] = finished.seconds
    if run.conditions.sampler:
        row["answers"] = row["sent"] = len(finished.clients)
    if plan := finished.plan:
        row["answers"] = int(plan.answers.sum())
        row["sent"] = sum(entry.direction == "down" for entry in finished.messages)
        row["steps"] = plan.steps.tolist()
        row |= {
            name: _names(run, finished.clients[getattr(plan, name)])
            for name in ("dropped", "silent", "late")
        }
    if finished.staleness is not None:
        row["staleness"] = finished.staleness.tolist()
    return row


def _names(run: Run, clients: Int[np.ndarray, " clients"]) -> list[str]:
    return [run.split.train.names[client] for client in clients]


def _bytes(run: Run, rows: Sequence[Row]) -> Row:
    uplink = [row["uplink_bytes"] for row in rows]
    downlink = [row["downlink_bytes"] for row in rows]
    trainable = sum(leaf.size for leaf in jax.tree.leaves(run.task.params))
    sent, answers = (
        sum(row.get(name, run.config.clients) for row in rows) for name in ("sent", "answers")
    )
    seconds = [row["simulated_seconds"] for row in rows if "simulated_seconds" in row]
    return {
        "trainable": trainable,
        "uplink_bytes": sum(uplink),
        "downlink_bytes": sum(downlink),
        "uplink_bits_per_parameter": 8 * sum(uplink) / max(answers * trainable, 1),
        "downlink_bits_per_parameter": 8 * sum(downlink) / max(sent * trainable, 1),
        "uplink_bytes_by_round": uplink,
        "downlink_bytes_by_round": downlink,
        **(
            {"simulated_seconds": seconds[-1], "simulated_seconds_by_round": seconds}
            if seconds
            else {}
        ),
    }


def _evaluations(run: Run, rows: Sequence[Row]) -> Row:
    """The losses on held-out text of the rounds that were evaluated; nothing if none was."""
    name = f"heldout_nats_per_{run.unit}"
    found = [{"round": row["round"], name: row[name]} for row in rows if name in row]
    return {"evaluations": found} if found else {}


def versions() -> dict[str, str]:
    """Versions of the packages that a run's bits depend on."""
    packages = ("fedjax-llm", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}
