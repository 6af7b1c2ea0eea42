"""One run: its rounds as rows, and what came of it."""

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .config import Run
from .data import all_windows, bigram_nats
from .ledger import total_bytes
from .simulation import Round, simulate

Row = dict[str, Any]


def execute(run: Run, each: Callable[[Row], None]) -> Row:
    """Run all rounds, handing each one's row to `each`, and return the summary.

    All but `seconds`, `versions` and `device` is the same for the same configuration.
    """
    started = time.perf_counter()
    rows = []
    params = run.task.params
    for finished in simulate(
        run.algorithm,
        run.task.params,
        run.task.frozen,
        run.split.train,
        run.batching,
        rounds=run.config.rounds,
        clients=run.config.clients,
        seed=run.config.seed,
        client_axis=run.client_axis,
    ):
        params = finished.state.params
        rows.append(_round_row(run, finished))
        each(rows[-1])
    return {
        "algorithm": run.config.algorithm,
        "codec": run.config.uplink,
        "seed": run.config.seed,
        **_bytes(run, rows),
        **_quality(run, params),
        "failed": sum(row["failed"] for row in rows),
        "digest": digest(params),
        "seconds": round(time.perf_counter() - started, 3),
        "versions": _versions(),
        "device": str(jax.devices()[0].device_kind),
        "config": asdict(run.config),
    }


def digest(params: PyTree) -> str:
    """SHA-256 over the names, shapes, dtypes and bits of parameters."""
    state = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        state.update(f"{jax.tree_util.keystr(path)}:{leaf.dtype}:{leaf.shape}\n".encode())
        state.update(np.ascontiguousarray(leaf).tobytes())
    return state.hexdigest()


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


def _versions() -> dict[str, str]:
    packages = ("fedjax-llm", "jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **found}
