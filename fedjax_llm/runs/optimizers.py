"""Optimizers by name: Optax's, and the server optimizers of this package."""

import optax

from ..server_optimizers import fed_adagrad, fed_adam, fed_yogi

OPTIMIZERS = {
    factory.__name__: factory
    for factory in (
        optax.adagrad,
        optax.adam,
        optax.adamw,
        optax.chain,
        optax.clip_by_global_norm,
        optax.lion,
        optax.rmsprop,
        optax.sgd,
        optax.yogi,
        fed_adagrad,
        fed_adam,
        fed_yogi,
    )
}
