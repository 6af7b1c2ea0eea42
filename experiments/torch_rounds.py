"""How long does a round take here, and how long in a plain PyTorch loop over the same clients?

    python experiments/torch_rounds.py [--repeats 5] [--works lora full small lora_bfloat16]

Four workloads, all Llamas, AdamW at the clients and the weighted mean at the server. Ours is
`simulate` as users call it: it draws batches, computes a round, and makes and measures every
message, on the fastest client axis, one of which spreads the cohort over two host devices. Torch's
is a loop over clients and steps with `scaled_dot_product_attention`, `rms_norm` and the fused
AdamW, two threads, no messages. Rounds alternate in one process, so that load from other processes
affects both alike; medians of wall and CPU seconds, and the ratio torch / ours: above 1 ours is
faster.

Needs torch. Nine minutes on two cores. A run appends one row per workload to
results/torch_rounds.jsonl.

Result (two cores of an AMD EPYC, jax 0.10.2, torch 2.13.0, wall time): LoRA 1.52 (1.23 to 1.52
between runs), full training .95, small 2.88; a bfloat16 base .90 against torch's bfloat16, on a
processor without a fast bfloat16 unit. Two devices were fastest for all four.
"""

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import numpy as np
import optax
import torch
import torch.nn.functional as F  # noqa: N812 (as everybody)

from fedjax_llm import DecoderConfig, fed_avg, language_model, lora
from fedjax_llm.data import Batching, Corpus
from fedjax_llm.runs.results import append_row
from fedjax_llm.simulation import candidates, fastest, simulate

RESULTS = Path(__file__).parent / "results" / "torch_rounds.jsonl"
RATE, RANK = 1e-3, 8


@dataclass(frozen=True)
class Work:
    """What a round is made of."""

    config: DecoderConfig
    clients: int
    steps: int
    batch: int
    seq: int
    adapted: bool = False
    torch_dtypes: tuple[str, ...] = ("float32",)
    """Of which torch's fastest counts."""


MIDDLE = DecoderConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=8,
)
LORA = Work(MIDDLE, clients=8, steps=4, batch=4, seq=128, adapted=True)
SMALL = DecoderConfig(num_attention_heads=4, num_key_value_heads=4)
WORKS = {
    "lora": LORA,
    "full": replace(LORA, adapted=False),
    "small": Work(SMALL, clients=64, steps=20, batch=4, seq=64),
    "lora_bfloat16": replace(
        LORA, config=replace(MIDDLE, dtype="bfloat16"), torch_dtypes=("float32", "bfloat16")
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    args = parser.parse_args()
    torch.set_num_threads(2)
    jax.config.update("jax_num_cpu_devices", 2)
    for name in args.works:
        work = WORKS[name]
        axis, rounds = ours(work)
        runs: dict[str, Callable[[], Any]] = {"ours": lambda rounds=rounds: next(rounds)}
        for dtype in work.torch_dtypes:
            runs[f"torch {dtype}"] = TorchRound(work, getattr(torch, dtype))
        row = {"work": name, "client_axis": axis, **compared(runs, args.repeats)}
        row["versions"] = {p: importlib.metadata.version(p) for p in ("jax", "torch")}
        print(json.dumps(row), flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        append_row(RESULTS, row)


def compared(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Seconds of each, which alternate, and the fastest of torch's over ours."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if repeat:  # the first compiles
                seen[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    row: dict[str, Any] = {
        name: dict(
            zip(("wall", "cpu"), map(statistics.median, zip(*times, strict=True)), strict=True)
        )
        for name, times in seen.items()
    }
    for kind in ("wall", "cpu"):
        theirs = min(row[name][kind] for name in runs if name != "ours")
        row[f"ratio_{kind}"] = round(theirs / row["ours"][kind], 3)
    return row


def ours(work: Work) -> tuple[str, Iterator]:
    """The client axis that is fastest, and rounds without end."""
    task = language_model(
        work.config, key=jr.key(0), adapter=lora(rank=RANK) if work.adapted else None
    )
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adamw(RATE))
    batching = Batching(seq=work.seq, batch=work.batch, steps=work.steps)
    each = 4 * work.batch * work.seq + 1
    text = np.random.default_rng(0).integers(0, work.config.vocab_size, work.clients * each)
    corpus = Corpus(
        tuple(f"{client:03}" for client in range(work.clients)),
        text.astype(np.int32),
        each * np.arange(work.clients + 1),
        work.config.vocab_size,
    )

    def rounds(axis: Any) -> Iterator:
        return simulate(
            algorithm,
            task.params,
            task.frozen,
            corpus,
            batching,
            rounds=10**6,
            clients=work.clients,
            seed=0,
            client_axis=axis,
        )

    best, _ = fastest(rounds, candidates(work.clients))
    return best.name, rounds(best.axis)


class TorchRound:
    """One round a call, each from where the last one led."""

    def __init__(self, work: Work, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.work, self.model = work, Llama(work, dtype)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        shape = (work.clients, work.steps, work.batch, work.seq + 1)
        self.ids = torch.randint(0, work.config.vocab_size, shape)

    def __call__(self) -> None:
        start = [p.detach().clone() for p in self.trained]
        total = [torch.zeros_like(p) for p in start]
        for client in self.ids:
            with torch.no_grad():
                for p, s in zip(self.trained, start, strict=True):
                    p.copy_(s)
            optimizer = torch.optim.AdamW(self.trained, lr=RATE, weight_decay=1e-4, fused=True)
            for ids in client:
                logits = self.model(ids[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                for sum_, p in zip(total, self.trained, strict=True):
                    sum_.add_(p, alpha=1 / len(self.ids))
        with torch.no_grad():
            for p, t in zip(self.trained, total, strict=True):
                p.copy_(t)


class Linear(torch.nn.Module):
    """A product, frozen with LoRA beside it, or trained."""

    def __init__(self, inputs: int, outputs: int, *, adapted: bool, dtype: torch.dtype) -> None:
        super().__init__()
        kernel = torch.randn(outputs, inputs) * inputs**-0.5
        self.kernel = torch.nn.Parameter(kernel.to(dtype), requires_grad=not adapted)
        self.a = self.b = None
        if adapted:
            self.a = torch.nn.Parameter(torch.randn(RANK, inputs) * inputs**-0.5)
            self.b = torch.nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.kernel)
        if self.a is None or self.b is None:
            return y
        return y + F.linear(F.linear(x, self.a.to(x.dtype)) * 2.0, self.b.to(x.dtype))


class Block(torch.nn.Module):
    """Attention and a gated MLP."""

    def __init__(self, work: Work, dtype: torch.dtype) -> None:
        super().__init__()
        c, self.norms = work.config, torch.nn.ParameterList()
        for _ in range(2):
            one = torch.ones(c.hidden_size, dtype=dtype)
            self.norms.append(torch.nn.Parameter(one, requires_grad=not work.adapted))
        sizes = [(c.hidden_size, c.hidden_size)] * 4
        sizes += [(c.hidden_size, c.intermediate_size)] * 2 + [(c.intermediate_size, c.hidden_size)]
        self.products = torch.nn.ModuleList(
            Linear(*size, adapted=work.adapted, dtype=dtype) for size in sizes
        )
        self.heads = c.num_attention_heads

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k, v, o, gate, up, down = self.products
        y = F.rms_norm(x, x.shape[-1:], self.norms[0], 1e-5)
        heads = (*x.shape[:2], self.heads, -1)
        qs, ks, vs = (each(y).view(heads).transpose(1, 2) for each in (q, k, v))
        qs, ks = turned(qs, cos, sin), turned(ks, cos, sin)
        mixed = F.scaled_dot_product_attention(qs, ks, vs, is_causal=True)
        x = x + o(mixed.transpose(1, 2).flatten(2))
        y = F.rms_norm(x, x.shape[-1:], self.norms[1], 1e-5)
        return x + down(F.silu(gate(y)) * up(y))


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Llama(torch.nn.Module):
    """Tokens to logits, the head tied."""

    def __init__(self, work: Work, dtype: torch.dtype) -> None:
        super().__init__()
        c = work.config
        table = torch.randn(c.vocab_size, c.hidden_size) * c.hidden_size**-0.5
        self.embedding = torch.nn.Parameter(table.to(dtype), requires_grad=not work.adapted)
        self.blocks = torch.nn.ModuleList(Block(work, dtype) for _ in range(c.num_hidden_layers))
        one = torch.ones(c.hidden_size, dtype=dtype)
        self.norm = torch.nn.Parameter(one, requires_grad=not work.adapted)
        head = c.hidden_size // c.num_attention_heads
        rates = c.rope_theta ** (-torch.arange(0, head, 2) / head)
        angles = torch.outer(torch.arange(work.seq), rates).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = F.embedding(ids, self.embedding)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.linear(F.rms_norm(x, x.shape[-1:], self.norm, 1e-5), self.embedding)


if __name__ == "__main__":
    main()
