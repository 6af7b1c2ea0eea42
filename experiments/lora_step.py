"""What does a LoRA step cost on a CPU, and how much of it is unavoidable matrix products?

    python experiments/lora_step.py [--repeats 7] [--targets q_proj,v_proj]

SmolLM2-135M with all its weights, 4 x 64 tokens, rank 8 on q and v, a frozen base, Adam. Compares
this library's step, a straightforward JAX step (layers in a Python loop, Hugging Face's [out, in]
weights as an argument, activations [batch, seq, width], log_softmax), and the same step in torch
with peft where both are installed. Steps alternate in one process, so that load from other
processes affects all of them alike; medians. CPU seconds are those of all threads. The peak is that
of a 2048 x 2048 float32 product, measured in between.

Three to fifteen minutes on two cores, depending on load. A run appends one row to
results/lora_step.jsonl.

Result: ours and the straightforward step take 1.9 CPU seconds each, 83 % of the peak; torch with
peft 10.4. LOG.md lists what was tried to make it faster.
"""

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from fedjax_llm import language_model, lora
from fedjax_llm.data import Batch
from fedjax_llm.model_files import open_model_files, smollm2
from fedjax_llm.models import DecoderConfig, config_from, config_to, hf_tensors, load_tensors
from fedjax_llm.runs.results import append_row

BATCH, SEQ, RANK, SIDE = 4, 64, 8, 2048
RESULTS = Path(__file__).parent / "results" / "lora_step.jsonl"
Step = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--targets", default="q_proj,v_proj")
    args = parser.parse_args()
    checkpoint = open_model_files(smollm2())
    config = config_from(checkpoint.config)
    params = load_tensors(config, {name: t.read for name, t in checkpoint.tensors.items()})
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (BATCH, SEQ + 1))
    targets = tuple(args.targets.split(","))
    steps = {
        "ours": ours(config, params, ids, targets),
        "straightforward": straightforward(config, hf_tensors(config, params), ids, targets),
    }
    if all(map(importlib.util.find_spec, ("torch", "peft"))):
        steps["torch + peft"] = torch_and_peft(config, hf_tensors(config, params), ids, targets)
    first = {name: compiled(step) for name, step in steps.items()}
    for name, (loss, seconds) in first.items():
        print(f"{name:16} loss {loss:.5f}, first step {seconds:.1f} s")
    row = measure(steps, args.repeats, flop(config))
    row |= {"targets": targets, "first_seconds": {n: s for n, (_, s) in first.items()}}
    row["versions"] = {p: importlib.metadata.version(p) for p in ("jax", "flax")}
    RESULTS.parent.mkdir(exist_ok=True)
    append_row(RESULTS, row)


def compiled(step: Step) -> tuple[float, float]:
    start = time.perf_counter()
    return step(), time.perf_counter() - start


def flop(config: DecoderConfig) -> float:
    """FLOPs of the products with frozen weights, forward and for their inputs' gradients."""
    width, inner, head = config.hidden_size, config.intermediate_size, config.head_size
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads
    block = width * head * heads + 3 * width * inner
    weights = config.num_hidden_layers * block + width * config.vocab_size
    return 2 * 2 * BATCH * SEQ * weights


def measure(steps: dict[str, Step], repeats: int, flop: float) -> dict[str, Any]:
    a = jnp.asarray(np.random.default_rng(0).normal(size=(SIDE, SIDE)), jnp.float32)
    product = jax.jit(lambda a: (a @ a)[0, 0])
    float(product(a))
    steps = {"product": lambda: float(product(a)), **steps}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    row = {}
    for name, times in seen.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        row[name] = {"wall": wall, "cpu": cpu}
        if name == "product":
            peaks = 2 * SIDE**3 / wall, 2 * SIDE**3 / cpu
            print(f"peak {peaks[0] / 1e9:.0f} GFLOP/s, {peaks[1] / 1e9:.0f} per CPU second")
            continue
        row[name] |= {"peak": flop / wall / peaks[0], "cpu_peak": flop / cpu / peaks[1]}
        print(
            f"{name:16} {wall:.3f} s, {BATCH * SEQ / wall:.0f} tokens/s, "
            f"{row[name]['peak']:.0%} of the peak; CPU {cpu:.3f} s, "
            f"{row[name]['cpu_peak']:.0%} of the peak"
        )
    return row


def ours(config: DecoderConfig, params: Any, ids: np.ndarray, targets: tuple[str, ...]) -> Step:
    adapter = lora(rank=RANK, targets=targets)
    task = language_model(config, key=jr.key(0), adapter=adapter, params=params)
    batch = Batch(jnp.asarray(ids[:, :-1]), jnp.asarray(ids[:, 1:]), jnp.ones((BATCH, SEQ)))
    return trained(lambda p, frozen: task.loss(p, frozen, batch), task.params, task.frozen)


def trained(loss: Callable, params: Any, frozen: Any) -> Step:
    """An Adam step that continues from the previous one."""
    optimizer = optax.adam(1e-4)

    @jax.jit
    def step(params: Any, state: Any, frozen: Any) -> tuple:
        value, gradient = jax.value_and_grad(loss)(params, frozen)
        update, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, update), state, value

    held = [params, optimizer.init(params)]

    def run() -> float:
        *held[:], value = step(*held, frozen)
        jax.block_until_ready(held)
        return float(value)

    return run


def straightforward(
    config: DecoderConfig, tensors: dict, ids: np.ndarray, targets: tuple[str, ...]
) -> Step:
    weights = {name: jnp.asarray(value) for name, value in tensors.items()}
    adapters = {}
    for index, (name, value) in enumerate(weights.items()):
        if name.removesuffix(".weight").rpartition(".")[2] in targets:
            outputs, inputs = value.shape
            a = jr.normal(jr.fold_in(jr.key(0), index), (inputs, RANK)) * inputs**-0.5
            adapters[name] = {"a": a, "b": jnp.zeros((RANK, outputs))}
    inputs, labels = jnp.asarray(ids[:, :-1]), jnp.asarray(ids[:, 1:])

    def loss(adapters: Any, weights: Any) -> jax.Array:
        logits = plain_forward(config, weights, adapters, inputs)
        nats = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(nats, labels[..., None], axis=-1).mean()

    return trained(loss, adapters, weights)


def plain_forward(config: DecoderConfig, w: dict, adapters: dict, ids: jax.Array) -> jax.Array:
    """A Llama written out plainly."""

    def linear(x: jax.Array, name: str) -> jax.Array:
        y = x @ w[name].T
        if name in adapters:
            y = y + (x @ adapters[name]["a"]) @ adapters[name]["b"] * 2.0
        return y

    def rms_norm(x: jax.Array, name: str) -> jax.Array:
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + config.rms_norm_eps) * w[name]

    def rope(x: jax.Array) -> jax.Array:
        half = x.shape[-1] // 2
        rates = config.rope_theta ** (-jnp.arange(half) / half)
        angles = jnp.arange(x.shape[1])[:, None, None] * rates
        first, second = x[..., :half], x[..., half:]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    x = w["model.embed_tokens.weight"][ids]
    batch, seq, _ = x.shape
    causal = jnp.tril(jnp.ones((seq, seq), bool))
    shared = config.num_attention_heads // config.num_key_value_heads
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}."
        y = rms_norm(x, f"{name}input_layernorm.weight")
        q, k, v = (
            linear(y, f"{name}self_attn.{p}_proj.weight").reshape(batch, seq, -1, config.head_size)
            for p in "qkv"
        )
        q, k, v = rope(q), jnp.repeat(rope(k), shared, axis=2), jnp.repeat(v, shared, axis=2)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * config.head_size**-0.5
        mixed = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
        y = jnp.einsum("bhqk,bkhd->bqhd", mixed, v).reshape(batch, seq, -1)
        x = x + linear(y, f"{name}self_attn.o_proj.weight")
        y = rms_norm(x, f"{name}post_attention_layernorm.weight")
        gate = jax.nn.silu(linear(y, f"{name}mlp.gate_proj.weight"))
        y = gate * linear(y, f"{name}mlp.up_proj.weight")
        x = x + linear(y, f"{name}mlp.down_proj.weight")
    return linear(rms_norm(x, "model.norm.weight"), "model.embed_tokens.weight")


def torch_and_peft(
    config: DecoderConfig, tensors: dict, ids: np.ndarray, targets: tuple[str, ...]
) -> Step:
    import peft  # noqa: PLC0415 (not everywhere)
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config_to(config)))
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=False)
    model.tie_weights()
    settings = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(targets))
    model = peft.get_peft_model(model, settings).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    inputs, labels = (torch.from_numpy(part).long() for part in (ids[:, :-1], ids[:, 1:]))

    def run() -> float:
        logits = model(inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


if __name__ == "__main__":
    main()
