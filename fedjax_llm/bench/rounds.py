"""Speed of rounds on this machine, for a ladder of sizes."""

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import jax
import jax.random as jr
from jaxtyping import PyTree
from rich import box
from rich.table import Table

from ..algorithm import FederatedAlgorithm
from ..models import DecoderConfig
from ..runs import Row, Run, RunConfig, choose_client_axis, prepare, rounds, versions
from ..runs.live import mebibytes
from ..simulation import ClientAxis
from ..simulation.loop.chunk_programs import repeatable_round

MIDDLE = DecoderConfig(
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=8,
)
LARGE = DecoderConfig(
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_key_value_heads=12,
)
LADDER: Mapping[str, RunConfig] = {
    "short": RunConfig(clients=8, local_steps=3),
    "short_eden": RunConfig(clients=8, local_steps=3, uplink="eden(bits=1)"),
    "tiny": RunConfig(),
    "middle": RunConfig(decoder=MIDDLE, clients=8, local_steps=4, batch=4, seq=128),
    "middle_lora": RunConfig(
        decoder=MIDDLE, adapter="lora(rank=8)", clients=8, local_steps=4, batch=4, seq=128
    ),
    "large_lora": RunConfig(
        decoder=LARGE, adapter="lora(rank=8)", clients=2, local_steps=2, batch=4, seq=128
    ),
}
"""From rounds of a tenth of a second, where the host's share shows, to 85 million parameters."""


def bench(rungs: Mapping[str, RunConfig], *, repeats: int = 5) -> Iterator[Row]:
    """Yield a row for each rung.

    Fields: `round_seconds` is the median over rounds of `simulate(..., ahead=True)`, with batches
    drawn and messages measured; `device_seconds` that of their programs alone, on data that is on
    the device; `host_share` the rest of a round; `compile_seconds` the additional time of the first
    round; `share_of_peak` the model's FLOP/s (PaLM, arXiv:2204.02311, appendix B, without gradients
    of frozen kernels) over those of large products in the model's dtype; `peak_bytes` the peak
    memory of the device so far, or of the process where the device does not report it.

    Args:
        rungs: Configurations by name. Their client axis and number of rounds are not used: each
            runs on the axis that `auto()` chooses.
        repeats: Rounds to time.

    """
    for name, config in rungs.items():
        run = prepare(dataclasses.replace(config, rounds=2 + repeats))
        axis = choose_client_axis(run)
        yield {"rung": name, "client_axis": axis.name, **_measured(run, axis.axis, repeats)}


def bench_table(rows: list[Row]) -> Table:
    """One line for each rung."""
    table = Table(box=box.SIMPLE)
    table.add_column("rung")
    table.add_column("client axis")
    for name in (
        "parameters",
        "trained",
        "rounds/s",
        "tokens/s",
        "of peak",
        "host",
        "compile s",
        "MiB",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["rung"],
            row["client_axis"],
            f"{row['parameters']:,}",
            f"{row['trainable']:,}",
            f"{1 / row['round_seconds']:.3g}",
            f"{row['tokens'] / row['round_seconds']:,.0f}",
            f"{row['share_of_peak']:.1%}",
            f"{row['host_share']:.1%}",
            f"{row['compile_seconds']:.1f}",
            mebibytes(row["peak_bytes"]),
        )
    return table


def _measured(run: Run, axis: ClientAxis, repeats: int) -> Row:
    config = run.config
    assert isinstance(run.algorithm, FederatedAlgorithm)  # noqa: S101 - for the type checker
    programs = repeatable_round(
        run.algorithm,
        run.task.params,
        run.task.frozen,
        run.split.train,
        run.batching,
        clients=config.clients,
        seed=config.seed,
        client_axis=axis,
    )
    with closing(rounds(run, axis, ahead=True)) as coming:
        first = _seconds(lambda: next(coming))
        next(coming)
        times = [_seconds(lambda: next(coming)) for _ in range(repeats)]  # to the last: none begins
    programs()
    whole = statistics.median(times)
    device = statistics.median([_seconds(programs) for _ in range(repeats)])
    steps = config.local_steps or 0
    tokens = config.clients * steps * config.batch * config.seq
    flops = tokens * flops_per_token(run)
    return {
        "parameters": _entries(run.task.params) + _entries(run.task.frozen),
        "trainable": _entries(run.task.params),
        "clients": config.clients,
        "tokens": tokens,
        "round_seconds": whole,
        "device_seconds": device,
        "host_share": 1 - device / whole,
        "compile_seconds": first - whole,
        "share_of_peak": flops / whole / product_peak(config.decoder.dtype),
        "peak_bytes": _peak_bytes(),
        "versions": versions(),
        "device": str(jax.devices()[0].device_kind),
    }


def product_peak(dtype: str) -> float:
    """FLOP/s of large square matrix products in a dtype: the best of five runs of eight."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jr.normal(jr.key(0), (size, size), dtype) / size**0.5

    @jax.jit
    def products(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 8, lambda _, y: (x @ y).astype(x.dtype), x)

    jax.block_until_ready(products(x))
    best = min(_seconds(lambda: jax.block_until_ready(products(x))) for _ in range(5))
    return 8 * 2 * size**3 / best


def flops_per_token(run: Run) -> int:
    """FLOPs of a training step per token.

    For each entry of a kernel two forward, two for its input's gradient, and two for its own where
    it is trained; for attention twelve for each layer, feature and position.
    """
    trained, frozen = (_kernel_entries(tree) for tree in (run.task.params, run.task.frozen))
    decoder = run.config.decoder
    attention = decoder.num_hidden_layers * decoder.hidden_size * run.config.seq
    return 6 * trained + 4 * frozen + 12 * attention


def _entries(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _kernel_entries(tree: PyTree) -> int:
    """Entries of all parameters but norms; a tied embedding counts once, as the head."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sum(leaf.size for path, leaf in leaves if path[-1].key != "scale")


def _peak_bytes() -> int:
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
