"""Small federations that run in the simulation and over Flower alike."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fedjax_compression import codec

from fedjax_llm import algorithms
from fedjax_llm.data import Batching, cohort_batches, from_arrays, masked_mean

NAMES = ("ann", "bob", "cyn", "dan")
PARAMS = {
    "w": (0.1 * np.arange(48.0)).reshape(8, 6).astype(np.float32),
    "b": np.linspace(-1.0, 1.0, 6, dtype=np.float32),
}
LIKE = jax.eval_shape(lambda: PARAMS)
BATCHING = Batching(batch=4, steps=3)
SGD = optax.sgd(0.1, momentum=0.5)


def corpus():
    """Clients with 5, 7, 9 and 11 examples.

    By NumPy, as a process for each message would compile each shape of JAX's anew.
    """
    random = np.random.default_rng(5)
    return from_arrays(
        {
            name: {
                "x": random.standard_normal((5 + 2 * i, 8), np.float32),
                "y": random.standard_normal((5 + 2 * i, 6), np.float32),
            }
            for i, name in enumerate(NAMES)
        }
    )


def _errors(params, frozen, data):
    error = jnp.tanh(data["x"] @ params["w"] + params["b"]) - data["y"]
    return (error**2).sum(axis=-1)


loss = masked_mean(_errors)
ALGORITHMS = {
    "fed_avg": lambda: algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=SGD,
        server_optimizer=optax.adam(0.1),
        uplink=codec("eden(bits=2)"),
    ),
    "scaffold": lambda: algorithms.scaffold(
        loss, LIKE, client_optimizer=SGD, population=4.0, uplink=codec("eden(bits=4)")
    ),
    "symbols": lambda: algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=SGD,
        uplink=codec("error_feedback(entropy_coded(rate=1.5))"),
        downlink=codec("stochastic_quantize(bits=8)"),
    ),
    "ef21": lambda: algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=SGD,
        population=32.0,
        uplink=codec("ef21(top_k(fraction=0.25))"),
    ),
    "personal": lambda: algorithms.ditto(loss, LIKE, client_optimizer=SGD, mu=0.5),
}


def batches():
    """One client's batches, for their structure."""
    rows = cohort_batches(corpus(), BATCHING, [0], np.zeros((1, 2), np.uint32))
    return jax.tree.map(lambda leaf: leaf[0], rows)
