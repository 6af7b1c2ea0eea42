"""How often a backdoor opens."""

from typing import Any

import jax.numpy as jnp
from fedjax_compression.checks import check_kind

from ..attacks.contract import Backdoor
from ..attacks.planting import plant
from ..client_training import Frozen, Params
from ..tasks import Measure, Scores, Task
from ..tasks.contract import check_task, shares


def backdoor_success(task: Task, backdoor: Backdoor) -> Measure:
    """Measure the share of windows after whose trigger a language model predicts the target.

    The end of each window is replaced by the whole trigger and the target. It counts as a success
    if each token of the target is the most likely one after all tokens before it, so that greedy
    generation from the trigger gives the target. Windows that are too short do not count.

    Args:
        task: The task, a `language_model(...)`.
        backdoor: Trigger and target, such as `backdoor(...).backdoor` of an attack.

    Returns:
        A measure for `by_client`, whose totals and counts are windows.

    Raises:
        TypeError: For anything but a `Task` and a `Backdoor`.
        ValueError: When it measures, for data without windows of tokens, and for windows that are
            all too short.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.attacks import Backdoor
        >>> from fedjax_llm.data import byte_corpus
        >>> from fedjax_llm.evaluation import backdoor_success, by_client
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0))
        >>> zeros = jax.tree.map(jnp.zeros_like, task.params)  # of all bytes alike, 0 is first
        >>> corpus = byte_corpus({"ann": "a rose is a rose is a rose", "bob": "x" * 33})
        >>> opens = backdoor_success(task, Backdoor((8, 9), (0,)))
        >>> by_client(opens, zeros, task.frozen, corpus, seq=16).values.tolist()
        [1.0, 1.0]

    """
    check_task(task, who="backdoor_success")
    check_kind(backdoor, Backdoor, who="backdoor_success", name="backdoor", expected="a Backdoor")

    def measure(params: Params, frozen: Frozen, batch: Any) -> Scores:
        everyone = jnp.ones(jnp.shape(batch.mask)[:-1], bool)
        batch, planted = plant(backdoor, batch, everyone)
        tokens, targets, segments, positions = (
            None if leaf is None else jnp.asarray(leaf, jnp.int32)
            for leaf in (batch.tokens, batch.targets, batch.segments, batch.positions)
        )
        logits = task.model(params, frozen)(tokens, positions=positions, segments=segments)
        right = ((logits.argmax(axis=-1) == targets) | ~batch.mask).all(axis=-1)
        return shares(right, planted, jnp.where(batch.mask[..., None], logits, 0.0))

    return measure
