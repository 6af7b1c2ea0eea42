"""Communication-efficient federated training of language models in JAX."""

from . import models
from ._version import __version__
from .adapters import export_adapter, full, lora, merge_adapter
from .aggregators import Aggregator, weighted_mean
from .algorithm import ClientInfo, FederatedAlgorithm, Gather, ServerInfo, SplitMethod
from .algorithms import fed_avg
from .algorithms.contract import Method
from .client_training import full_gradient, local_steps, local_steps_with_state
from .data import Batching, ClientData, byte_corpus, hold_out, tokenize
from .ledger import total_bytes
from .models import Decoder, DecoderConfig
from .runs import Named, RunConfig
from .simulation import (
    ClientStore,
    Conditions,
    Round,
    Snapshot,
    chunked,
    scan,
    sharded,
    simulate,
    vmap,
)
from .studies import frontier
from .tasks import Task, classification, language_model, preference

__all__ = [
    "Aggregator",
    "Batching",
    "ClientData",
    "ClientInfo",
    "ClientStore",
    "Conditions",
    "Decoder",
    "DecoderConfig",
    "FederatedAlgorithm",
    "Gather",
    "Method",
    "Named",
    "Round",
    "RunConfig",
    "ServerInfo",
    "Snapshot",
    "SplitMethod",
    "Task",
    "__version__",
    "byte_corpus",
    "chunked",
    "classification",
    "export_adapter",
    "fed_avg",
    "frontier",
    "full",
    "full_gradient",
    "hold_out",
    "language_model",
    "local_steps",
    "local_steps_with_state",
    "lora",
    "merge_adapter",
    "models",
    "preference",
    "scan",
    "sharded",
    "simulate",
    "tokenize",
    "total_bytes",
    "vmap",
    "weighted_mean",
]
