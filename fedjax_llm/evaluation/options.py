"""Multiple-choice accuracy by the likelihood of each option."""

import jax.numpy as jnp

from ..client_training import Frozen, Params
from ..data import ChoiceBatch
from ..tasks import Measure, Scores, Task
from ..tasks.contract import check_task, shares
from ..tasks.decoder import log_likelihood


def option_accuracy(task: Task, *, per_token: bool = False) -> Measure:
    """Measure the share of questions whose right option is the most likely one.

    A question scores 1 or 0. The likelihood of an option is that of all its tokens given the
    prompt, including its end of sequence. The first of equally likely options counts.
    Cost: a batch runs the decoder over batch * options rows.

    Args:
        task: A task with a decoder.
        per_token: Compare the mean log-probability per token, which does not favour short options
            (Brown et al. 2020, arXiv:2005.14165, section 2.4). Default False: compare the sum.

    Returns:
        A measure on a `ChoiceBatch`.

    Raises:
        TypeError: If `task` is not a `Task`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr, numpy as np
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.data import ChoiceBatch
        >>> from fedjax_llm.evaluation import option_accuracy
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # all tokens alike
        >>> text = np.zeros((1, 2, 4), int)
        >>> counted = np.array([[[0, 0, 1, 1], [0, 0, 0, 1]]], bool)  # options of 2 tokens and of 1
        >>> answer, one = np.array([0]), np.ones(1, bool)  # the first option is right
        >>> batch = ChoiceBatch(text, text, counted, np.ones((1, 2), bool), answer, one)
        >>> option_accuracy(task)(zeros, task.frozen, batch).totals.tolist()  # the short option
        [0.0]
        >>> option_accuracy(task, per_token=True)(zeros, task.frozen, batch).totals.tolist()
        [1.0]

    """
    check_task(task, who="option_accuracy")

    def measure(params: Params, frozen: Frozen, batch: ChoiceBatch) -> Scores:
        nats = log_likelihood(task.model(params, frozen), batch)
        if per_token:
            nats = nats / jnp.maximum(batch.counted.sum(axis=-1), 1)
        likeliest = jnp.where(batch.there, nats, -jnp.inf).argmax(axis=-1)
        told_from = jnp.where(batch.there, nats, 0.0)
        return shares(likeliest == batch.answers, jnp.asarray(batch.mask), told_from)

    return measure
