"""Optimizers and schedules by name: Optax's, and those of this package."""

import optax

from ..client_optimizers import muon
from ..schedules import over_rounds, over_run_steps, within_round
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
        muon,
        over_rounds,
        over_run_steps,
        within_round,
        optax.cosine_decay_schedule,
        optax.exponential_decay,
        optax.linear_schedule,
        optax.polynomial_schedule,
        optax.warmup_cosine_decay_schedule,
    )
}
