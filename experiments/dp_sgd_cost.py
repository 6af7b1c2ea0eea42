"""What DP-SGD costs a client: CPU seconds of a local step, beside the plain step.

    python experiments/dp_sgd_cost.py

The default decoder (trained whole, and by LoRA of rank 8), batches of 8 windows of 64 bytes; the
least of five runs of four steps, after compilation. A minute of one core. docs/privacy.md has the
result.
"""

import time

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from fedjax_llm import DecoderConfig, language_model
from fedjax_llm.adapters import lora
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batch
from fedjax_llm.privacy import dp_sgd
from fedjax_llm.privacy.dp_sgd import KeyedBatches

STEPS, BATCH, SEQ = 4, 8, 64


def seconds(task, loss, keyed):
    shape = STEPS, BATCH, SEQ
    tokens = jr.randint(jr.key(0), shape, 0, 256)
    batches = Batch(tokens, tokens, jnp.ones(shape, bool))
    train = jax.jit(local_steps(loss, optax.adam(0.006)))
    batches = KeyedBatches(batches, jr.key(1)) if keyed else batches
    jax.block_until_ready(train(task.params, task.frozen, batches))
    least = float("inf")
    for _ in range(5):
        begun = time.process_time()
        jax.block_until_ready(train(task.params, task.frozen, batches))
        least = min(least, time.process_time() - begun)
    return least / STEPS


def main():
    print("| trained | plain s | `dp_sgd` s | ratio | `microbatch=1` s | ratio |")
    print("|---|---|---|---|---|---|")
    for name, adapter in (("full", None), ("`lora(rank=8)`", lora(rank=8))):
        task = language_model(DecoderConfig(), key=jr.key(0), adapter=adapter)
        noise = {"clip": 0.1, "noise_multiplier": 1.0}
        plain = seconds(task, task.loss, keyed=False)
        whole = seconds(task, dp_sgd(task.loss, **noise), keyed=True)
        by_one = seconds(task, dp_sgd(task.loss, microbatch=1, **noise), keyed=True)
        print(
            f"| {name} | {plain:.3f} | {whole:.3f} | {whole / plain:.2f} | {by_one:.3f} "
            f"| {by_one / plain:.2f} |"
        )


if __name__ == "__main__":
    main()
