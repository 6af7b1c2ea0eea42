"""One run: its rounds as rows, and what came of it."""

import importlib.metadata
import platform
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int, PyTree

from .. import models
from ..adapters import export_adapter, merge_adapter
from ..base import base_of
from ..digest import digest
from ..ledger import total_bytes
from ..simulation import (
    ClientAxis,
    Progress,
    Round,
    Timed,
    candidates,
    fastest,
    simulate,
    simulate_buffered,
    simulate_split,
)
from ..split import SplitMethod
from .prepare import Run
from .quality import Row, personal_quality, quality


class Past(NamedTuple):
    """What of a run was run before, by another process."""

    progress: Progress | None = None
    rows: Sequence[Row] = ()
    seconds: float = 0.0


class Trained(NamedTuple):
    """What came of a run."""

    params: PyTree
    frozen: PyTree
    """The task's, with what the method has added to it."""


def execute(
    run: Run,
    each: Callable[[Row], None],
    *,
    past: Past = Past(),
    keep: Callable[[Round, float], None] | None = None,
) -> tuple[Row, Trained]:
    """Run all rounds, or those that are left, handing each one's row to `each` and then itself
    and the run's seconds so far to `keep`, and return the summary of all and the
    parameters trained, with the frozen ones that they belong to.

    All but `seconds`, `versions` and `device` is the same for the same configuration.
    """
    axis = run.client_axis if isinstance(run.client_axis, ClientAxis) else settled(run).axis
    started = time.perf_counter() - past.seconds
    rows = list(past.rows)
    last: Round | None = None
    for finished in rounds(run, axis, past.progress):
        last = finished
        rows.append(_round_row(run, finished))
        each(rows[-1])
        if keep:
            keep(finished, time.perf_counter() - started)
    state = last.state if last else past.progress and past.progress.state
    params = run.task.params if state is None else state.params
    trained = Trained(params, base_of(state, run.task.frozen))
    row = {
        "algorithm": run.config.algorithm,
        "codec": run.config.uplink,
        "seed": run.config.seed,
        **_bytes(run, rows),
        **quality(run, *trained),
        **(_of_own_models(run, trained, past, last) if run.algorithm.personal else {}),
        "failed": sum(row["failed"] for row in rows),
        "digest": digest(params if trained.frozen is run.task.frozen else trained),
        "seconds": round(time.perf_counter() - started, 3),
        "versions": versions(),
        "device": str(jax.devices()[0].device_kind),
        "config": asdict(run.config),
    }
    return row, trained


def _of_own_models(run: Run, trained: Trained, past: Past, last: Round | None) -> Row:
    progress = last.progress() if last else past.progress
    return personal_quality(run, *trained, progress.store) if progress else {}


def deliver(run: Run, trained: Trained, out: Path) -> Path | None:
    """Write what was trained: `adapter/`, which `peft` opens, or else `model/`, the model with it,
    which `transformers` opens.

    The model, too, where the method has changed its base, as an adapter alone would lack that.
    Gives the folder; None where neither has a place for what was trained.
    """
    model, learnt = run.task.model(*trained), run.workload
    if trained.frozen is run.task.frozen:
        with suppress(ValueError):
            export_adapter(out / "adapter", model, base_model=run.config.model)
            return out / "adapter"
    try:
        merged = merge_adapter(model)
    except ValueError:
        return None
    if (out / "model").exists():  # of this run, which was stopped after it
        shutil.rmtree(out / "model")
    models.save(out / "model", learnt.decoder, merged, tokenizer=learnt.tokenizer)
    return out / "model"


def settled(run: Run) -> Timed:
    """The client axis that `auto()` stands for on this machine; says so on standard error."""
    best, found = fastest(lambda axis: rounds(run, axis), candidates(run.config.clients))
    times = ", ".join(
        f"{each.name} {f'{each.seconds:.3g} s' if each.seconds else 'does not fit'}"
        for each in found
    )
    print(f"fedjax-llm: auto() is {best.name} ({times} a round).", file=sys.stderr)
    return best


def rounds(
    run: Run, axis: ClientAxis, start: Progress | None = None
) -> Generator[Round, None, None]:
    """The rounds of a run, those after `start` where it is given."""
    config, method = run.config, run.algorithm
    federation = run.task.params, run.task.frozen, run.split.train, run.batching
    count, clients, seed = config.rounds, config.clients, config.seed
    if isinstance(method, SplitMethod):
        return simulate_split(
            method, *federation, rounds=count, clients=clients, seed=seed, start=start
        )
    if config.buffer is not None:
        return simulate_buffered(
            method,
            *federation,
            rounds=count,
            clients=clients,
            buffer=config.buffer,
            seed=seed,
            conditions=run.conditions,
        )
    return simulate(
        method,
        *federation,
        rounds=count,
        clients=clients,
        seed=seed,
        client_axis=axis,
        start=start,
        conditions=run.conditions,
    )


def _round_row(run: Run, finished: Round) -> Row:
    info, targets = finished.client_info, finished.client_info.targets
    seen = np.isfinite(info.loss) * targets
    return {
        "round": finished.round,
        f"train_nats_per_{run.learning.unit}": float(
            np.nan_to_num(info.loss) @ seen / max(seen.sum(), 1)
        ),
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
    """Who did not do as asked, and the run's simulated seconds so far, where there are such."""
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


def _bytes(run: Run, rows: list[Row]) -> Row:
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
    """Of what a run's bits depend on."""
    packages = ("fedjax-llm", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}
