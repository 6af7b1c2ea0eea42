"""One run: its rounds as rows, and what came of it."""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from .config import Run
from .data import all_windows, bigram_nats
from .digest import digest
from .ledger import total_bytes
from .simulation import ClientAxis, Progress, Round, Timed, candidates, fastest, simulate

Row = dict[str, Any]


class Past(NamedTuple):
    """What of a run was run before, by another process."""

    progress: Progress | None = None
    rows: Sequence[Row] = ()
    seconds: float = 0.0


def execute(
    run: Run,
    each: Callable[[Row], None],
    *,
    past: Past = Past(),
    keep: Callable[[Round, float], None] | None = None,
) -> Row:
    """Run all rounds, or those that are left, handing each one's row to `each` and then itself
    and the run's seconds so far to `keep`, and return the summary of all.

    All but `seconds`, `versions` and `device` is the same for the same configuration.
    """
    axis = run.client_axis if isinstance(run.client_axis, ClientAxis) else settled(run).axis
    started = time.perf_counter() - past.seconds
    rows = list(past.rows)
    params = past.progress.state.params if past.progress else run.task.params
    for finished in _rounds(run, axis, past.progress):
        params = finished.state.params
        rows.append(_round_row(run, finished))
        each(rows[-1])
        if keep:
            keep(finished, time.perf_counter() - started)
    return {
        "codec": run.config.uplink,
        "seed": run.config.seed,
        **_bytes(run, rows),
        **_quality(run, params),
        "failed": sum(row["failed"] for row in rows),
        "digest": digest(params),
        "seconds": round(time.perf_counter() - started, 3),
        "versions": versions(),
        "device": str(jax.devices()[0].device_kind),
        "config": asdict(run.config),
    }


def settled(run: Run) -> Timed:
    """The client axis that `auto()` stands for on this machine; says so on standard error."""
    best, found = fastest(lambda axis: _rounds(run, axis), candidates(run.config.clients))
    times = ", ".join(
        f"{each.name} {f'{each.seconds:.3g} s' if each.seconds else 'does not fit'}"
        for each in found
    )
    print(f"fedjax-llm: auto() is {best.name} ({times} a round).", file=sys.stderr)
    return best


def _rounds(run: Run, axis: ClientAxis, start: Progress | None = None) -> Iterator[Round]:
    return simulate(
        run.algorithm,
        run.task.params,
        run.task.frozen,
        run.split.train,
        run.batching,
        rounds=run.config.rounds,
        clients=run.config.clients,
        seed=run.config.seed,
        client_axis=axis,
        start=start,
    )


def _round_row(run: Run, finished: Round) -> Row:
    info, targets = finished.client_info, finished.client_info.targets
    seen = np.isfinite(info.loss) * targets
    return {
        "round": finished.round,
        "train_nats_per_byte": float(np.nan_to_num(info.loss) @ seen / max(seen.sum(), 1)),
        "accepted": int(finished.server_info.accepted),
        "failed": int(finished.server_info.failed),
        "update_norm": float(finished.server_info.update_norm),
        "uplink_bytes": total_bytes(finished.messages, "up"),
        "downlink_bytes": total_bytes(finished.messages, "down"),
        "header_bytes": sum(entry.header_bytes for entry in finished.messages),
        "clients": [run.split.train.names[client] for client in finished.clients],
    }


def _bytes(run: Run, rows: list[Row]) -> Row:
    uplink = [row["uplink_bytes"] for row in rows]
    downlink = [row["downlink_bytes"] for row in rows]
    trainable = sum(leaf.size for leaf in jax.tree.leaves(run.task.params))
    messages = run.config.clients * run.config.rounds
    return {
        "trainable": trainable,
        "uplink_bytes": sum(uplink),
        "downlink_bytes": sum(downlink),
        "uplink_bits_per_parameter": 8 * sum(uplink) / (messages * trainable),
        "downlink_bits_per_parameter": 8 * sum(downlink) / (messages * trainable),
        "uplink_bytes_by_round": uplink,
        "downlink_bytes_by_round": downlink,
    }


def _quality(run: Run, params: PyTree) -> Row:
    """Nats per byte of the model, and of a byte bigram, on the same held-out text."""
    row: Row = {}
    for name, corpus in (("heldout", run.split.seen), ("unseen", run.split.unseen)):
        if corpus.names:
            batches = all_windows(corpus, seq=run.config.seq, batch=64)
            nats = float(run.task.evaluate(params, run.task.frozen, batches))
            row |= {
                f"{name}_nats_per_byte": nats,
                f"{name}_bigram_nats_per_byte": bigram_nats(run.split.train, corpus),
            }
    return row


def versions() -> dict[str, str]:
    """Of what a run's bits depend on."""
    packages = ("fedjax-llm", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}
