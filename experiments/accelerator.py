"""Is everything right, and how fast, on this accelerator?

    python experiments/accelerator.py [--quick]

For a GPU or a TPU, beside the CPU of the same machine. Three tables: what agrees with the CPU and
what does not; rounds per second for the ladder of `fedjax-llm bench`; codecs, entries per second.
Ends with status 1 if something does not agree. Made to take eight minutes on one device; no
accelerator has run it yet. `--quick` has the smallest sizes, and runs on a CPU alone too, where it
compares the CPU with itself.

What is compared, and how closely it must agree:
- *training*: the change that three rounds make to the default model, with products of full
  precision; norm of the difference over norm of the change at most 1e-3. Then with the device's
  default precision, at most .1: TPUs and GPUs round the factors of products.
- *messages*: what a codec's message from the device decodes to on the CPU and on the device; norm
  of the difference at most 1e-5 of the update's. A server on a CPU reads clients on accelerators.
- *codecs*: relative squared error of the device's message and of the CPU's, within 2 % of each
  other; single entries may fall on other sides of a rounding.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import codec, payload_structure, wire
from jaxtyping import PyTree
from rich.console import Console
from rich.table import Table

from fedjax_llm import DecoderConfig, simulate
from fedjax_llm.bench import LADDER, bench, bench_table, measure, rate_distortion_table
from fedjax_llm.runs import RunConfig, prepare
from fedjax_llm.simulation import scan

CODECS = (
    "identity()",
    "stochastic_quantize(bits=4)",
    "eden(bits=1)",
    "eden(bits=0.1)",
    "trellis_fixed(bits=0.1)",
    "top_k(fraction=0.01)",
    "blockwise_int(bits=4)",
    "entropy_coded(rate=1)",
)


SMALLEST = RunConfig(
    decoder=DecoderConfig(hidden_size=16, intermediate_size=24, num_attention_heads=2),
    clients=2,
    local_steps=2,
    batch=2,
    seq=16,
    population=30,
)


class Agreement(NamedTuple):
    """How far the device is from the CPU, and how far it may be."""

    what: str
    found: float
    most: float


def main() -> int:
    parser = argparse.ArgumentParser(description="Accuracy and speed of this device.")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes alone")
    quick = parser.parse_args().quick
    codecs = CODECS[:3] if quick else CODECS
    device = jax.devices()[0]
    console = Console(width=120)
    console.print(f"{device.device_kind}, {jax.device_count()} of them; jax {jax.__version__}")
    table = Table("compared with the CPU", "found", "at most", "")
    wrong = 0
    for each in (*training(quick), *messages(codecs, 2**12 if quick else 2**20)):
        fits = each.found <= each.most  # a NaN does not
        wrong += not fits
        table.add_row(
            each.what, f"{each.found:.2e}", f"{each.most:.0e}", "" if fits else "[bold]DIFFERS"
        )
    console.print(table)
    ladder = {"smallest": SMALLEST} if quick else LADDER
    console.print(bench_table(list(bench(ladder, repeats=1 if quick else 5))))
    entries = 2**16 if quick else 2**22
    gaussian = {"Gaussian": jr.normal(jr.key(0), (entries,))}
    rows = list(measure(codecs, gaussian, speed=True))
    console.print(rate_distortion_table(rows))
    return 1 if wrong else 0


def training(quick: bool) -> Iterator[Agreement]:
    """Three rounds here and on the CPU."""
    config = SMALLEST if quick else RunConfig(clients=2, local_steps=2)
    run = prepare(replace(config, rounds=3, uplink="eden(bits=4)"))
    cpu = jax.devices("cpu")[0]

    def change(device: jax.Device) -> np.ndarray:
        with jax.default_device(device):
            *_, last = simulate(
                run.algorithm,
                jax.device_put(run.task.params, device),
                jax.device_put(run.task.frozen, device),
                run.split.train,
                run.batching,
                rounds=3,
                clients=2,
                seed=0,
                client_axis=scan(),
            )
        return flat(last.state.params) - flat(run.task.params)

    for precision, most in (("highest", 1e-3), ("default", 0.1)):
        with jax.default_matmul_precision(precision):
            ours, theirs = change(jax.devices()[0]), change(cpu)
        far = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        yield Agreement(f"training, products of {precision} precision", float(far), most)


def messages(codecs: Sequence[str], entries: int) -> Iterator[Agreement]:
    """Each codec's message from here, read here and on the CPU, and the CPU's own."""
    here, cpu = jax.devices()[0], jax.devices("cpu")[0]
    update = jr.normal(jr.key(1), (entries,))
    for text in codecs:
        built = codec(text)
        like = payload_structure(built, update)

        def message(device: jax.Device, built=built) -> bytes:
            x = jax.device_put(update, device)
            with jax.default_device(device):
                return wire.dumps(jax.jit(built.encode)(jr.key(2), x, built.init(x))[0])

        def read(data: bytes, device: jax.Device, built=built, like=like) -> np.ndarray:
            with jax.default_device(device):
                payload = jax.device_put(wire.loads(data, like), device)
                return flat(jax.jit(built.decode)(payload, jax.device_put(update, device)))

        ours, theirs = message(here), message(cpu)
        norm = np.linalg.norm(flat(update))
        far = np.linalg.norm(read(ours, here) - read(ours, cpu)) / norm
        yield Agreement(f"{text}, its message read here and there", float(far), 1e-5)
        errors = [
            np.linalg.norm(flat(update) - read(data, cpu)) ** 2 / norm**2 for data in (ours, theirs)
        ]
        far = abs(errors[0] - errors[1]) / max(errors[1], 1e-12)
        yield Agreement(f"{text}, error of its message", float(far), 2e-2)


def flat(tree: PyTree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


if __name__ == "__main__":
    sys.exit(main())
