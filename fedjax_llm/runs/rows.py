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
from .quality import personal_quality, quality
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


def summary(
    run: Run,
    rows: Sequence[Row],
    state: ServerState | None,
    snapshot: Callable[[], Snapshot | None],
    seconds: float,
) -> tuple[Row, Trained]:
    """The summary row of a run, and what it trained.

    Args:
        run: The run.
        rows: The rows of its rounds.
        state: The last server state; None before the first round.
        snapshot: `() -> snapshot` of the last round.
        seconds: Wall-clock seconds.

    """
    params = run.task.params if state is None else state.params
    frozen = base_of(state, run.task.frozen)
    ended = snapshot() if run.algorithm.personal else None
    trained = Trained(params, frozen, ended and ended.store)
    row = {
        "algorithm": run.config.algorithm,
        "codec": run.config.uplink,
        "seed": run.config.seed,
        "unit": run.unit,
        **_bytes(run, rows),
        **quality(run, params, frozen),
        **(personal_quality(run, params, frozen, ended.store) if ended else {}),
        "failed": sum(row["failed"] for row in rows),
        "digest": _digest(run, trained),
        "seconds": round(seconds, 3),
        "versions": versions(),
        "device": str(jax.devices()[0].device_kind),
        "config": asdict(run.config),
    }
    return row, trained


def _digest(run: Run, trained: Trained) -> str:
    """Digest of the trained parameters, with the base and the client states that belong to them."""
    if trained.frozen is run.task.frozen:
        trained = trained._replace(frozen=None)
    alone = trained.frozen is None and trained.clients is None
    return digest(trained.params if alone else trained)


def round_row(run: Run, finished: Round) -> Row:
    """The row of a round."""
    info, targets = finished.client_info, finished.client_info.targets
    seen = np.isfinite(info.loss) * targets
    return {
        "round": finished.round,
        f"train_nats_per_{run.unit}": float(np.nan_to_num(info.loss) @ seen / max(seen.sum(), 1)),
        "accepted": int(finished.server_info.accepted),
        "failed": int(finished.server_info.failed),
        "update_norm": float(finished.server_info.update_norm),
        "uplink_bytes": total_bytes(finished.messages, "up"),
        "downlink_bytes": total_bytes(finished.messages, "down"),
        "header_bytes": sum(entry.header_bytes for entry in finished.messages),
        "clients": _names(run, finished.clients),
        **_of_plan(run, finished),
    }


def _of_plan(run: Run, finished: Round) -> Row:
    """Fields of faults, deadlines and simulated time; none for a run without them."""
    row: Row = {}
    if run.conditions.network:
        row["simulated_seconds"] = finished.seconds
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
        "downlink_bits_per_parameter": 8 * sum(downlink) / (sent * trainable),
        "uplink_bytes_by_round": uplink,
        "downlink_bytes_by_round": downlink,
        **(
            {"simulated_seconds": seconds[-1], "simulated_seconds_by_round": seconds}
            if seconds
            else {}
        ),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that a run's bits depend on."""
    packages = ("fedjax-llm", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}
