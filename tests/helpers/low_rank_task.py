"""A linear model with LoRA on two kernels, for tests of methods that send factors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fedjax_compression import codec

from fedjax_llm.algorithms.averaging import fed_avg
from fedjax_llm.algorithms.lora import (
    fed_sb,
    fedex_lora,
    fedsa_lora,
    ffa_lora,
    flasc,
    flexlora,
    flora,
    flora_ranks,
    hetlora,
    rolora,
)

CLIENTS, STEPS, RANK = 4, 3, 2
WEIGHTS = jnp.array([1.0, 2.0, 3.0, 4.0])
SCALE = 0.5
"""Scale of the products: SCALE * a @ b is added to a kernel."""


def _pair(key, *shape_in_out, rank=RANK):
    *layers, inputs, outputs = shape_in_out
    keys = jr.split(key)
    return {
        "a": jr.normal(keys[0], (*layers, inputs, rank)) * inputs**-0.5,
        "b": 0.1 * jr.normal(keys[1], (*layers, rank, outputs)),
    }


PARAMS = {
    "deep": {"adapter": _pair(jr.key(1), 2, 6, 6)},
    "wide": {"adapter": _pair(jr.key(2), 6, 9)},
}
"""`deep` has two layers of 6 inputs and 6 outputs; `wide` has 6 inputs and 9 outputs."""
FROZEN = {
    "deep": {"kernel": 0.4 * jr.normal(jr.key(3), (2, 6, 6))},
    "wide": {"kernel": 0.4 * jr.normal(jr.key(4), (6, 9))},
}
LIKE = jax.eval_shape(lambda: PARAMS)
A_VALUES = RANK * (2 * 6 + 6)
B_VALUES = RANK * (2 * 6 + 9)


SGD, ADAM, ONE = optax.sgd(0.02), optax.adam(0.01), optax.sgd(1.0)
COHORT = {"scale": SCALE, "clients": CLIENTS}
TABLE = {
    "fed_avg, LoRA": lambda loss, like=LIKE: fed_avg(loss, like, client_optimizer=SGD),
    "ffa_lora": lambda loss, like=LIKE: ffa_lora(loss, like, client_optimizer=ADAM),
    "ffa_lora, coded": lambda loss, like=LIKE: ffa_lora(
        loss,
        like,
        client_optimizer=SGD,
        uplink=codec("error_feedback(top_k(fraction=0.5))"),
        downlink=codec("ef21(stochastic_quantize(bits=8))"),
    ),
    "fedsa_lora": lambda loss, like=LIKE: fedsa_lora(loss, like, client_optimizer=SGD),
    "fed_sb": lambda loss, like=LIKE: fed_sb(loss, like, client_optimizer=SGD),
    "fed_sb, from its start": lambda loss, like=LIKE: fed_sb(
        loss, like, client_optimizer=SGD, seed=None
    ),
    "flasc": lambda loss, like=LIKE: flasc(loss, like, client_optimizer=SGD, server_optimizer=ADAM),
    "rolora": lambda loss, like=LIKE: rolora(loss, like, client_optimizer=ADAM),
    "fedex_lora": lambda loss, like=LIKE: fedex_lora(loss, like, client_optimizer=SGD, **COHORT),
    "flora": lambda loss, like=LIKE: flora(loss, like, client_optimizer=SGD, **COHORT),
    "flora_ranks": lambda loss, like=LIKE: flora_ranks(
        loss, like, client_optimizer=SGD, ranks=(1, 2), **COHORT
    ),
    "flexlora": lambda loss, like=LIKE: flexlora(loss, like, client_optimizer=SGD, ranks=(1, 2)),
    "hetlora": lambda loss, like=LIKE: hetlora(loss, like, client_optimizer=SGD, ranks=(1, 2)),
    "hetlora, pruning": lambda loss, like=LIKE: hetlora(
        loss, like, client_optimizer=SGD, ranks=(1, 2), keep=0.5, penalty=1.0
    ),
}
"""Algorithms by name, or name and variant: `(loss, like) -> algorithm`."""


class Rows(NamedTuple):
    """Rows of a least-squares problem."""

    x: jax.Array
    y: jax.Array
    mask: jax.Array


def kernels(params, frozen):
    """The adapted kernels, by name."""
    return {
        name: frozen[name]["kernel"]
        + SCALE * params[name]["adapter"]["a"] @ params[name]["adapter"]["b"]
        for name in frozen
    }


def loss(params, frozen, batch):
    held = kernels(params, frozen)
    h = batch.x @ held["deep"][0] @ held["deep"][1] @ held["wide"]
    error = (h - batch.y) * batch.mask[:, None]
    return 0.5 * (error**2).sum() / jnp.maximum(batch.mask.sum(), 1)


def cohort(seed=0, clients=CLIENTS):
    """Batches of clients with different targets, three steps each; the last client's last step is
    masked out.
    """
    keys = jr.split(jr.key(seed), 3)
    x = jr.normal(keys[0], (clients, STEPS, 4, 6))
    own = jr.normal(keys[1], (clients, 6, 9))
    y = jnp.einsum("ksbi,kio->ksbo", x, own) + jr.normal(keys[2], (clients, 1, 1, 9))
    return Rows(x, y, jnp.ones((clients, STEPS, 4)).at[-1, -1].set(0))


def mean_of_products(factors, weights=WEIGHTS):
    """The weighted mean of a @ b over clients, in float64; leaves `[clients, ...]`."""
    shares = np.asarray(weights, np.float64) / np.asarray(weights, np.float64).sum()
    return {
        name: sum(
            share
            * np.asarray(pair["adapter"]["a"][row], np.float64)
            @ np.asarray(pair["adapter"]["b"][row], np.float64)
            for row, share in enumerate(shares)
        )
        for name, pair in factors.items()
    }


def products(params):
    return {
        name: np.asarray(pair["adapter"]["a"], np.float64)
        @ np.asarray(pair["adapter"]["b"], np.float64)
        for name, pair in params.items()
    }


def error(one, other):
    """The largest difference between two dictionaries of matrices."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)
