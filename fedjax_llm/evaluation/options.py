"""Accuracy by option likelihood: the right option should be the likeliest."""

import jax.numpy as jnp

from ..client_training import Frozen, Params
from ..data import ChoiceBatch
from ..tasks import Measure, Scores, Task
from ..tasks.decoder import log_likelihood


def option_accuracy(task: Task, *, per_token: bool = False) -> Measure:
    """1 for each question whose right option is the likeliest, else 0, on a `ChoiceBatch`.

    An option's likelihood is that of all its tokens given the prompt, in nats, its end of sequence
    among them; or with `per_token` their mean, which does not favour short options (Brown et al.
    2020, arXiv:2005.14165, section 2.4). The first of equals wins. `task` has a decoder.
    Cost: a batch runs the decoder over batch * options rows.
    """

    def measure(params: Params, frozen: Frozen, batch: ChoiceBatch) -> Scores:
        nats = log_likelihood(task.model(params, frozen), batch)
        if per_token:
            nats = nats / jnp.maximum(batch.counted.sum(axis=-1), 1)
        likeliest = jnp.where(batch.there, nats, -jnp.inf).argmax(axis=-1)
        right = (likeliest == batch.answers) & batch.mask
        return Scores(jnp.float32(right), jnp.float32(batch.mask))

    return measure
