"""Workloads that are timed here and in plain PyTorch."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

import jax
import jax.random as jr
import numpy as np
import optax

from ..adapters import lora
from ..algorithm import FederatedAlgorithm
from ..algorithms import fed_avg
from ..client_training import Frozen, Params
from ..data import Batching, Corpus
from ..models import DecoderConfig
from ..simulation import Round, scan, sharded, simulate
from ..tasks import language_model
from .rounds import MIDDLE

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


_MIDDLE = replace(MIDDLE, vocab_size=4096)
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


def federation_of(work: Work) -> tuple[FederatedAlgorithm, Params, Frozen, Corpus, Batching]:
    """The algorithm and data of a workload, on random tokens: what `simulate` takes first."""
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
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adamw(RATE))
    batching = Batching(seq=work.seq, batch=work.batch, steps=work.steps)
    return algorithm, task.params, task.frozen, corpus, batching


def rounds_of(work: Work) -> Generator[Round, None, None]:
    """Rounds of a workload without end, the cohort spread over all devices."""
    yield from simulate(
        *federation_of(work),
        rounds=10**6,
        clients=work.clients,
        seed=0,
        client_axis=sharded(inner=scan()) if jax.device_count() > 1 else scan(),
    )
