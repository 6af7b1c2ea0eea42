"""Optax optimizers by name."""

import optax

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
    )
}
