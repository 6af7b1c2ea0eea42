"""How few bits does a client's update need, compared with a Gaussian?

    python experiments/update_codecs.py        about five minutes on one core

Trains decoders of 0.8 and 3.2 million parameters on one half of the standard library's text, lets a
client take 30 (or 10) AdamW steps on the other half, and codes the difference. Rows go to
experiments/results/update_codecs.jsonl.

Result: at one bit `adaptive` has error .11 to .12, `entropy_coded` .24 to .35 and
`least_error_scale(eden(bits=1))` .363 to .364.
"""

import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_llm import DecoderConfig, language_model
from fedjax_llm.bench.codecs import measure
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batch
from fedjax_llm.runs.results import append_row

OUT = Path(__file__).parent / "results/update_codecs.jsonl"
CODECS = (
    *(f"adaptive(rate={rate})" for rate in (0.5, 1, 2)),
    *(f"entropy_coded(rate={rate})" for rate in (0.5, 1, 2)),
    *(f"least_error_scale(eden(bits={bits}))" for bits in (1, 2)),
)
SIZES = {
    "0.8 M, 30 steps": (128, 30, 1e-3),
    "0.8 M, 10 steps": (128, 10, 3e-4),
    "3.2 M, 30 steps": (256, 30, 1e-3),
}


def windows(text: np.ndarray, steps: int, *, seed: int) -> Batch:
    starts = np.random.default_rng(seed).integers(0, len(text) - 65, (steps, 8))
    rows = text[starts[..., None] + np.arange(65)]
    return Batch(rows[..., :-1], rows[..., 1:], np.ones((steps, 8, 64), bool))


def client_update(width: int, steps: int, rate: float):
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = np.frombuffer(b"".join(f.read_bytes() for f in sorted(folder.glob("*.py"))), np.uint8)
    config = DecoderConfig(
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=4,
        num_key_value_heads=4,
    )
    task = language_model(config, key=jax.random.key(1))
    train = jax.jit(local_steps(task.loss, optax.adamw(1e-3)))
    start, _ = train(task.params, task.frozen, windows(text[: len(text) // 2], 200, seed=0))
    train = jax.jit(local_steps(task.loss, optax.adamw(rate)))
    end, _ = train(start, task.frozen, windows(text[len(text) // 2 :], steps, seed=5))
    return jax.tree.map(jnp.subtract, end, start)


def main() -> None:
    OUT.parent.mkdir(exist_ok=True)
    OUT.unlink(missing_ok=True)
    for name, size in SIZES.items():
        for row in measure(CODECS, {name: client_update(*size)}, speed=False):
            append_row(OUT, row)
            print(f"{name}  {row['codec']}: R {row['bits_per_entry']:.4f} D {row['error']:.4f}")


if __name__ == "__main__":
    main()
