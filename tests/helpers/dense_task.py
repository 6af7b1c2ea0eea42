"""Least squares over parameters of several shapes, for methods that train all parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fedjax_compression import codec

from fedjax_llm import algorithms
from fedjax_llm.aggregators import secure_mean

PARAMS = {
    "blocks": {"kernel": 0.1 * jnp.arange(24.0).reshape(2, 3, 4)},
    "embedding": jnp.linspace(-1.0, 1.0, 15).reshape(5, 3),
    "scale": jnp.ones(3),
}
SIZE, CLIENTS, STEPS = 42, 4, 3
SGD, ADAM = optax.sgd(0.05, momentum=0.5), optax.adam(0.03)
PLAIN = optax.sgd(0.02)
LIKE, FROZEN = jax.eval_shape(lambda: PARAMS), {}
PUBLIC = np.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4) % 5


def logits(params, frozen, tokens):
    """Logits of a toy language model with a vocabulary of five."""
    return params["embedding"][tokens] * params["scale"] @ params["embedding"].T


ASKED = {"logits": logits, "vocab": 5, "public": PUBLIC}
TABLE = {
    "fed_avg": lambda loss: algorithms.fed_avg(
        loss, LIKE, client_optimizer=ADAM, server_optimizer=ADAM
    ),
    "fed_avg, sums of integers": lambda loss: algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=PLAIN,
        uplink=codec("error_feedback(fixed_point(clip=0.1, bits=12, clients=8))"),
        aggregate=secure_mean(),
    ),
    "fed_avg, coded given the last update": lambda loss: algorithms.fed_avg(
        loss, LIKE, client_optimizer=SGD, uplink=codec("eden(bits=3)"), prediction=0.5
    ),
    "fed_sgd": lambda loss: algorithms.fed_sgd(loss, LIKE, server_optimizer=SGD),
    "fed_prox": lambda loss: algorithms.fed_prox(loss, LIKE, client_optimizer=SGD, mu=0.3),
    "scaffold": lambda loss: algorithms.scaffold(loss, LIKE, client_optimizer=SGD, population=10.0),
    "scaffold, coded": lambda loss: algorithms.scaffold(
        loss,
        LIKE,
        client_optimizer=SGD,
        population=10.0,
        uplink=codec("stochastic_quantize(bits=8)"),
        downlink=codec("ef21(stochastic_quantize(bits=8))"),
    ),
    "fed_nova": lambda loss: algorithms.fed_nova(loss, LIKE, client_optimizer=SGD, mu=0.1),
    "fed_dyn": lambda loss: algorithms.fed_dyn(loss, LIKE, client_optimizer=SGD, population=10.0),
    "fed_exp": lambda loss: algorithms.fed_exp(loss, LIKE, client_optimizer=SGD),
    "q_fed_avg": lambda loss: algorithms.q_fed_avg(loss, LIKE, client_optimizer=SGD, q=0.5),
    "q_fed_avg, coded": lambda loss: algorithms.q_fed_avg(
        loss, LIKE, client_optimizer=SGD, q=2, uplink=codec("error_feedback(sign())")
    ),
    "fl_trust": lambda loss: algorithms.fl_trust(
        loss, LIKE, client_optimizer=SGD, root=jax.tree.map(lambda x: x[0], cohort(9)), steps=STEPS
    ),
    "mime_lite": lambda loss: algorithms.mime_lite(loss, LIKE, rate=0.05),
    "mime_lite, coded": lambda loss: algorithms.mime_lite(
        loss,
        LIKE,
        rate=0.02,
        uplink=codec("error_feedback(stochastic_quantize(bits=8))"),
        downlink=codec("ef21(stochastic_quantize(bits=8))"),
    ),
    "ditto": lambda loss: algorithms.ditto(loss, LIKE, client_optimizer=SGD, mu=0.5),
    "fed_rep": lambda loss: algorithms.fed_rep(
        loss, LIKE, client_optimizer=SGD, personal="^scale$", passes=2
    ),
    "fed_rep, last layer": lambda loss: algorithms.fed_rep(
        loss, LIKE, client_optimizer=ADAM, last=1
    ),
    "diloco": lambda loss: algorithms.diloco(loss, LIKE, client_optimizer=ADAM),
    "sparse_loco": lambda loss: algorithms.sparse_loco(
        loss, LIKE, client_optimizer=ADAM, fraction=0.2, chunk=16
    ),
    "streaming_diloco": lambda loss: algorithms.streaming_diloco(
        loss, LIKE, client_optimizer=ADAM, fragments_of=2, overlap=1
    ),
    "streaming_diloco, coded": lambda loss: algorithms.streaming_diloco(
        loss,
        LIKE,
        client_optimizer=SGD,
        fragments_of=3,
        uplink=codec("error_feedback(stochastic_quantize(bits=8))"),
        downlink=codec("ef21(stochastic_quantize(bits=8))"),
    ),
    "muloco": lambda loss: algorithms.muloco(loss, LIKE, rate=0.05),
    "cocktail_sgd": lambda loss: algorithms.cocktail_sgd(
        loss, LIKE, client_optimizer=ADAM, subset=0.5, fraction=0.5, bits=8
    ),
    "demo": lambda loss: algorithms.demo(loss, LIKE, rate=0.01, fraction=0.2, block=16),
    "demo, over senders": lambda loss: algorithms.demo(
        loss, LIKE, rate=0.01, fraction=0.2, block=16, over_senders=True
    ),
    "fed_md": lambda loss: algorithms.fed_md(loss, LIKE, client_optimizer=SGD, top=2, **ASKED),
    "fed_md, coded": lambda loss: algorithms.fed_md(
        loss,
        LIKE,
        client_optimizer=ADAM,
        top=5,
        uplink=codec("stochastic_quantize(bits=8)"),
        downlink=codec("stochastic_quantize(bits=8)"),
        **ASKED,
    ),
    "fed_bpt": lambda loss: algorithms.fed_bpt(loss, LIKE, dimension=4, generations=2, points=4),
    "fed_mezo": lambda loss: algorithms.fed_mezo(
        loss, LIKE, client_optimizer=ADAM, server_optimizer=SGD
    ),
    "fed_kseed": lambda loss: algorithms.fed_kseed(
        # slopes have the loss's rounding over the radius
        loss,
        LIKE,
        client_optimizer=PLAIN,
        seeds=20,
        radius=0.01,
    ),
    "decomfl": lambda loss: algorithms.decomfl(
        loss, LIKE, client_optimizer=PLAIN, steps=STEPS, draws=2, window=3
    ),
    "feed_sign": lambda loss: algorithms.feed_sign(loss, LIKE, client_optimizer=PLAIN, window=3),
    "fwd_llm": lambda loss: algorithms.fwd_llm(
        loss, LIKE, server_optimizer=SGD, draws=2, candidates=3
    ),
    "fwd_llm, pooled": lambda loss: algorithms.fwd_llm(
        loss, LIKE, server_optimizer=ADAM, candidates=1, variance=1.0
    ),
    "spry": lambda loss: algorithms.spry(loss, LIKE, server_optimizer=SGD, slices=2, draws=2),
}
"""Algorithms by name, or name and variant: `(loss) -> algorithm`."""


class Rows(NamedTuple):
    """Rows of a least-squares problem."""

    x: jax.Array
    y: jax.Array
    mask: jax.Array


def loss(params, frozen, batch):
    w = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    error = batch.x @ w - batch.y
    return 0.5 * (batch.mask * error**2).sum() / jnp.maximum(batch.mask.sum(), 1)


def cohort(seed=0, clients=CLIENTS):
    """Batches of clients, three steps each; the last client's last step is masked out."""
    keys = jr.split(jr.key(seed), 2)
    x = 0.3 * jr.normal(keys[0], (clients, STEPS, 2, SIZE))
    y = jr.normal(keys[1], (clients, STEPS, 2))
    return Rows(x, y, jnp.ones((clients, STEPS, 2)).at[-1, -1].set(0))


WEIGHTS = jnp.array([1.0, 2.0, 3.0, 4.0])
