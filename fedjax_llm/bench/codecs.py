"""Codecs measured on known and real sources: bytes made against error, and speed."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fedjax_compression import Compressor, codec, payload_structure, wire
from jaxtyping import PyTree
from rich import box
from rich.table import Table

from ..client_training import local_steps
from ..data import Batching, cohort_batches
from ..runs import Row, RunConfig, prepare, rounds
from ..simulation import scan

CODECS = (
    "identity()",
    *(f"stochastic_quantize(bits={bits})" for bits in (8, 4, 2, 1)),
    "qsgd(levels=7)",
    "terngrad()",
    "natural()",
    "sign()",
    "rotated(stochastic_quantize(bits=4))",
    *(f"blockwise_int(bits={bits})" for bits in (8, 4, 2)),
    "fp8()",
    "nf4()",
    "mxfp4()",
    *(f"eden(bits={bits})" for bits in (4, 3, 2, 1, 0.5, 0.25, 0.1)),
    *(f"trellis(rate={rate})" for rate in (3, 2, 1)),
    "unbiased_scale(rotated(trellis(rate=0.5)))",
    *(f"adaptive(rate={rate})" for rate in (3, 2, 1, 0.5, 0.25)),
    "dithered(rate=1)",
    "least_error_scale(eden(bits=1))",
    *(f"trellis_fixed(bits={bits})" for bits in (4, 3, 2, 1, 0.5, 0.25, 0.1)),
    *(f"preconditioned(trellis_fixed(bits={bits}))" for bits in (2, 1, 0.5, 0.25, 0.1)),
    *(f"unbiased_scale(rotated(entropy_coded(rate={rate})))" for rate in (3, 2, 1, 0.5)),
    *(f"entropy_coded(rate={rate})" for rate in (4, 3, 2, 1, 0.5, 0.1)),
    "top_k(fraction=0.01)",
    "chunked_top_k(fraction=0.01)",
    "chain(chunked_top_k(fraction=0.01), stochastic_quantize(bits=4))",
    "sparse_loco()",
    "sparse_ternary(fraction=0.01)",
    "random_k(fraction=0.01)",
    "random_subspace(fraction=0.01)",
    "threshold(value=2.5, capacity=0.02)",
    "dgc(fraction=0.01, momentum=0.9)",
    "dct_top_k(fraction=0.01, decay=0.999)",
    "count_sketch(rows=3, columns=4096)",
    "power_sgd(rank=2)",
)
"""The codecs that are measured by default."""
CLIENTS = 16
ENTRIES = 2**16
"""Entries of each client's update when 16 clients encode together."""


def sources(entries: int, *, seed: int) -> dict[str, PyTree]:
    """A Gaussian, a Student t with three degrees of freedom, and a client's update.

    The update is the change that 30 local AdamW steps make to the default decoder after three
    federated rounds on Shakespeare's plays; it has the model's size.

    Args:
        entries: Entries of the two drawn sources.
        seed: Seed of all three.

    """
    key = jr.key(seed)
    return {
        "Gaussian": jr.normal(jr.fold_in(key, 1), (entries,)),
        "Student t": jr.t(jr.fold_in(key, 2), 3.0, (entries,)),
        "AdamW update": _pseudo_gradient(seed),
    }


def measure(codecs: Sequence[str], updates: dict[str, PyTree], *, speed: bool) -> Iterator[Row]:
    """Yield a row for each codec and source: bytes made, header included, and squared error.

    Args:
        codecs: Codecs as texts.
        updates: Sources by name.
        speed: Also measure entries per second from float32 to bytes and back (median of seven),
            and the time of 16 clients of 2^16 entries under one `vmap` over that of a loop.

    """
    for text in codecs:
        built = codec(text)
        common: Row = {"codec": text}
        if speed:
            common |= {"vmap_over_loop": vmap_over_loop(built)} | _machine()
        for name, update in updates.items():
            yield common | {"source": name} | _measure(built, update, speed=speed)


def rate_distortion_table(rows: Sequence[Row]) -> Table:
    """One line per codec: bits per entry, error, and gap to Shannon's bound on each source.

    The bound is that of a Gaussian of the same variance; any other source can do better.
    """
    names = list(dict.fromkeys(row["source"] for row in rows))
    out = Table(title="Error D at R bits per entry, and 10 log10(D 4^R)", box=box.SIMPLE_HEAD)
    timed = "encode_entries_per_second" in rows[0]
    if timed:
        threads, device = rows[0]["threads"], rows[0]["device"]
        on = f"{threads} thread{'s' if threads > 1 else ''} of {device}"
        out.caption = (
            f"On {on}: M/s are million entries of the first source per second; vmap is the time of "
            f"{CLIENTS} clients of {ENTRIES} entries together over that of a loop."
        )
    out.add_column("codec", min_width=24, overflow="fold")
    for name in names:
        for column in (f"{name}\nR", "D", "dB"):
            out.add_column(column, justify="right", no_wrap=True)
    if timed:
        for column in ("M/s\nencode", "decode", "vmap"):
            out.add_column(column, justify="right")
    for text in dict.fromkeys(row["codec"] for row in rows):
        own = {row["source"]: row for row in rows if row["codec"] == text}
        cells = [text]
        for name in names:
            row = own[name]
            gap = "" if row["gap_db"] is None else f"{row['gap_db']:.2f}"
            cells += [f"{row['bits_per_entry']:.4f}", f"{row['error']:.4g}", gap]
        if timed:
            first = own[names[0]]
            cells += [
                f"{first[f'{way}_entries_per_second'] / 1e6:.0f}" for way in ("encode", "decode")
            ]
            cells.append(f"{first['vmap_over_loop']:.2f}")
        out.add_row(*cells)
    return out


def vmap_over_loop(built: Compressor) -> float:
    """Time of encoding 16 clients of 2^16 entries under one `vmap`, over that of a loop.

    The median of seven; more than 1 is the cost of the client axis.
    """
    keys = jr.split(jr.key(8), CLIENTS)
    updates = jr.normal(jr.key(9), (CLIENTS, 2**8, ENTRIES // 2**8))
    state = built.init(updates[0])
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (CLIENTS, *leaf.shape)), state)
    one, every = jax.jit(built.encode), jax.jit(jax.vmap(built.encode))
    clients = list(zip(keys, updates, strict=True))

    def apart() -> Any:
        return [jax.block_until_ready(one(key, update, state)) for key, update in clients]

    def together() -> Any:
        return jax.block_until_ready(every(keys, updates, states))

    apart(), together()  # compiled before the clock runs
    return statistics.median(_once(together) / _once(apart) for _ in range(7))


def _machine() -> Row:
    """The device, and the number of processors that XLA may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    threads = len(affinity(0)) if affinity else os.cpu_count() or 1
    return {"device": jax.devices()[0].device_kind, "threads": threads}


def _measure(built: Compressor, update: PyTree, *, speed: bool) -> Row:
    encode, decode = jax.jit(built.encode), jax.jit(built.decode)
    key, state = jr.key(7), built.init(update)
    like = payload_structure(built, update)

    def to_bytes() -> bytes:
        return wire.dumps(encode(key, update, state)[0])

    def from_bytes() -> PyTree:
        return jax.block_until_ready(decode(wire.loads(message, like), update))

    message = to_bytes()
    entries = sum(leaf.size for leaf in jax.tree.leaves(update))
    rate, error = 8 * len(message) / entries, _error(update, from_bytes())
    row: Row = {
        "entries": entries,
        "bytes": len(message),
        "bits_per_entry": rate,
        "error": error,
        "gap_db": 10 * math.log10(error * 4**rate) if error > 0 and rate < 30 else None,
    }
    if speed:
        row["encode_entries_per_second"] = entries / _seconds(to_bytes)
        row["decode_entries_per_second"] = entries / _seconds(from_bytes)
    return row


def _error(update: PyTree, decoded: PyTree) -> float:
    pairs = zip(jax.tree.leaves(update), jax.tree.leaves(decoded), strict=True)
    both = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    return float(sum(((a - b) ** 2).sum() for a, b in both) / sum((a**2).sum() for a, _ in both))


def _seconds(work: Callable[[], Any]) -> float:
    return statistics.median(_once(work) for _ in range(7))


def _once(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _pseudo_gradient(seed: int) -> PyTree:
    run = prepare(RunConfig(rounds=3, clients=8, seed=seed))
    *_, last = rounds(run, scan())
    params = last.state.params
    batching = Batching(seq=64, batch=8, steps=30)
    batches = cohort_batches(run.split.train, batching, [0], np.array([[0, seed]], np.uint32))
    train = jax.jit(local_steps(run.task.loss, optax.adamw(0.003)))
    trained, _ = train(params, run.task.frozen, jax.tree.map(lambda leaf: leaf[0], batches))
    return jax.tree.map(jnp.subtract, trained, params)
