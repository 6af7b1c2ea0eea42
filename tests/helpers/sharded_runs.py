"""Runs a few rounds on one device, several, or two processes, and measures the model by client;
saves parameters, messages and what was measured.

python sharded_runs.py OUT AXIS UPLINK CLIENTS [PORT PROCESS]
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax


def main():
    out, text, uplink, clients, *process = sys.argv[1:]
    if process:
        jax.distributed.initialize(f"127.0.0.1:{process[0]}", 2, int(process[1]))
    from fedjax_compression import codec  # noqa: PLC0415
    from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: PLC0415

    from fedjax_llm import DecoderConfig, fed_avg, language_model, lora  # noqa: PLC0415
    from fedjax_llm.data import Batching, byte_corpus  # noqa: PLC0415
    from fedjax_llm.evaluation import by_client  # noqa: PLC0415
    from fedjax_llm.simulation import chunked, scan, sharded, simulate, vmap  # noqa: PLC0415

    devices = len(jax.devices())

    def mesh(*shape):
        names = ("clients", "model")[: len(shape)]
        return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(shape))

    tiny = DecoderConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    verse = "It was the best of times, it was the worst of times, it was the age of wisdom. "
    corpus = byte_corpus({f"client {i:02}": (verse * 6)[i : 40 + 31 * i] for i in range(20)})
    task = language_model(tiny, key=jax.random.key(0), adapter=lora(rank=2))
    frozen = task.frozen
    axes = {
        "vmap": vmap,
        "sharded": lambda: sharded(mesh(devices)),
        "sharded scan": lambda: sharded(mesh(devices), inner=scan()),
        "sharded chunked": lambda: sharded(mesh(devices), inner=chunked(1)),
        "sharded base": lambda: sharded(mesh(devices // 2, 2)),
    }
    axis = axes[text]()
    if text == "sharded base":
        place = axis.placement.mesh

        def put(leaf):
            last = "model" if leaf.ndim and leaf.shape[-1] % 2 == 0 else None
            spec = PartitionSpec(*[None] * (leaf.ndim - 1), last) if leaf.ndim else PartitionSpec()
            return jax.device_put(leaf, NamedSharding(place, spec))

        frozen = jax.tree.map(put, frozen)
    traces = 0

    def loss(*args):
        nonlocal traces
        traces += 1
        return task.loss(*args)

    algorithm = fed_avg(
        loss,
        task.params,
        client_optimizer=optax.sgd(0.5),
        server_optimizer=optax.sgd(1.0, momentum=0.9),
        uplink=codec(uplink),
    )
    rounds, counts = [], []
    for r in simulate(
        algorithm,
        task.params,
        frozen,
        corpus,
        Batching(seq=16, batch=2, steps=3),
        rounds=4,
        clients=int(clients),
        seed=0,
        client_axis=axis,
    ):
        rounds.append([list(entry) for entry in r.messages])
        counts.append(traces)
    shares = []

    def nats(params, frozen, batch):
        def see(sharding):
            shares.append(sharding.shard_shape(batch.tokens.shape)[0])

        jax.debug.inspect_array_sharding(batch.tokens, callback=see)
        return task.nats(params, frozen, batch)

    measured = by_client(nats, r.state.params, frozen, corpus, seq=16, batch=9)
    if jax.process_index() == 0:
        leaves = jax.tree.leaves((r.state.params, r.snapshot().store.states))
        np.savez(Path(out), *[np.asarray(leaf) for leaf in leaves])
        about = {"rounds": rounds, "loss": r.client_info.loss.tolist(), "traces": counts}
        about |= {"nats": measured.totals.tolist(), "rows of a device": shares}
        Path(out).with_suffix(".json").write_text(json.dumps(about))


if __name__ == "__main__":
    main()
