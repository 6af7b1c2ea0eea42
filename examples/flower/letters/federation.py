"""What server and clients agree on: the model, the method, its codec, the batches."""

import jax
import numpy as np
import optax
from fedjax_compression import codec

from fedjax_llm import DecoderConfig, language_model
from fedjax_llm.algorithms import scaffold
from fedjax_llm.data import Batching, byte_corpus, cohort_batches

NAMES = ("ann", "bob", "cyn")
SEED, ROUNDS, CLIENTS = 0, 3, 2
BATCHING = Batching(seq=32, batch=4, steps=4)
CONFIG = DecoderConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
)

task = language_model(CONFIG, key=jax.random.key(SEED))
algorithm = scaffold(
    task.loss,
    task.params,
    client_optimizer=optax.sgd(0.1),
    population=float(len(NAMES)),
    uplink=codec("eden(bits=4)"),
)


def batches():
    """One client's batches, for their structure: the server has no text of its own."""
    nobody = byte_corpus({"nobody": "-" * 64})
    rows = cohort_batches(nobody, BATCHING, [0], np.zeros((1, 2), np.uint32))
    return jax.tree.map(lambda leaf: leaf[0], rows)
