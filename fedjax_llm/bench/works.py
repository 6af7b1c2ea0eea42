"""Workloads that are timed here and in plain PyTorch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import jax
import jax.random as jr
import numpy as np
import optax

from ..adapters import lora
from ..algorithms import fed_avg
from ..data import Batching, Corpus
from ..models import DecoderConfig
from ..simulation import Round, scan, sharded, simulate
from ..tasks import language_model

RATE, RANK = 1e-3, 8
"""AdamW's learning rate, and the rank of the adapters."""


@dataclass(frozen=True)
class Work:
    """What a round is made of.

    Attributes:
        config: The model, a Llama with a tied head.
        clients: Clients in a round.
        steps: AdamW steps of a client.
        batch: Rows of a step.
        seq: Tokens of a row.
        adapted: LoRA on all products in place of all parameters.
        torch_dtypes: Dtypes of PyTorch's base model, of which the fastest counts.

    """

    config: DecoderConfig
    clients: int
    steps: int
    batch: int
    seq: int
    adapted: bool = False
    torch_dtypes: tuple[str, ...] = ("float32",)


_MIDDLE = DecoderConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=8,
)
_LORA = Work(_MIDDLE, clients=2, steps=4, batch=4, seq=128, adapted=True)
_SMALL = DecoderConfig(num_attention_heads=4, num_key_value_heads=4)
WORKS: Mapping[str, Work] = {
    "middle_lora": _LORA,
    "middle": replace(_LORA, adapted=False),
    "small": Work(_SMALL, clients=16, steps=20, batch=4, seq=64),
    "middle_lora_bfloat16": replace(
        _LORA, config=replace(_MIDDLE, dtype="bfloat16"), torch_dtypes=("float32", "bfloat16")
    ),
}


def rounds_of(work: Work) -> Iterator[Round]:
    """Rounds of a workload without end, the cohort spread over all devices."""
    task = language_model(
        work.config, key=jr.key(0), adapter=lora(rank=RANK) if work.adapted else None
    )
    each = work.steps * work.batch * work.seq + 1
    tokens = np.random.default_rng(0).integers(0, work.config.vocab_size, work.clients * each)
    corpus = Corpus(
        tuple(f"{client:03}" for client in range(work.clients)),
        tokens.astype(np.int32),
        each * np.arange(work.clients + 1),
        work.config.vocab_size,
    )
    return simulate(
        fed_avg(task.loss, task.params, client_optimizer=optax.adamw(RATE)),
        task.params,
        task.frozen,
        corpus,
        Batching(seq=work.seq, batch=work.batch, steps=work.steps),
        rounds=10**6,
        clients=work.clients,
        seed=0,
        client_axis=sharded(inner=scan()) if jax.device_count() > 1 else scan(),
    )
