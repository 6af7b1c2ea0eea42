"""Preferences without a reward model: DPO (Rafailov et al. 2023, arXiv:2305.18290)."""

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression.checks import check_kind
from jaxtyping import Array, Float, Key, PyTree

from ..adapters import Adapter
from ..checks import check_count, check_scalar
from ..client_training import Frozen, Params
from ..data import PairBatch, Pairs
from ..models import DecoderConfig, EncoderConfig
from .contract import Measure, Scores, Task, check_task, mean_loss, mean_over_batches, shares
from .decoder import adapted_decoder, log_likelihood


def preference(
    config: DecoderConfig | EncoderConfig,
    *,
    key: Key[Array, ""],
    adapter: Adapter | None = None,
    params: PyTree | None = None,
    beta: float = 0.1,
) -> Task:
    """Train a decoder by direct preference optimisation (DPO), in nats per pair.

    The task reads a `PairBatch`. The loss of a pair is -log sigmoid(margin), with the margin of
    equation 7: beta * ((log p(chosen) - reference of chosen) - (log p(rejected) - reference of
    rejected)). Each log-probability is a sum over the answer's tokens given the prompt, in nats.
    The reference log-probabilities are in the batch (see `with_reference`), so that no second model
    is kept in memory. The loss of the initial model is log 2.
    Cost: a step runs the decoder over 2 * batch rows.

    Args:
        config: The decoder's sizes, a `DecoderConfig`.
        key: PRNG key of the initial parameters and the adapter.
        adapter: What is trained, such as `lora(rank=8)`; default all parameters.
        params: Pretrained parameters, from `models.load`. Default: drawn from `key`.
        beta: Factor of the margin, above 0; default 0.1.

    Returns:
        The task.

    Raises:
        TypeError: If `config`, `adapter` or `params` is of another kind.
        ValueError: Unless `beta` is a finite number above 0, and if `params` do not have the
            config's shapes. When a function of the task meets a batch without reference.

    Example:
        >>> import jax.random as jr, numpy as np
        >>> from fedjax_llm import DecoderConfig, preference
        >>> from fedjax_llm.data import Corpus, Pairs, all_windows
        >>> from fedjax_llm.tasks import with_reference
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = preference(config, key=jr.key(0))
        >>> tokens = np.frombuffer(b"2+2=4" b"2+2=5", np.uint8)  # chosen, rejected
        >>> answers = np.array([False, False, False, False, True] * 2)
        >>> corpus = Corpus(("ann",), tokens, np.array([0, 10]), 256, np.array([0, 5, 10]), answers)
        >>> pairs = with_reference(task, Pairs(corpus), seq=4)
        >>> batches = all_windows(pairs, seq=4, batch=1)
        >>> round(float(task.evaluate(task.params, task.frozen, batches)), 4)  # log 2
        0.6931

    """
    check_scalar(beta, who="preference", name="beta", above=0)
    trained, frozen, merge = adapted_decoder(
        config, key=key, adapter=adapter, params=params, who="preference"
    )

    def nats(params: Params, frozen: Frozen, batch: PairBatch) -> Scores:
        margin = beta * gains(log_likelihood(merge(params, frozen), batch), batch)
        return Scores(jax.nn.softplus(-margin) * batch.mask, jnp.float32(batch.mask))

    return Task(trained, frozen, mean_loss(nats), mean_over_batches(nats), merge, nats)


def with_reference(task: Task, pairs: Pairs, *, seq: int, batch: int = 8) -> Pairs:
    """Compute the reference log-probability of each answer, under the task's initial model.

    Compute it once, before training; a split of the result keeps it. Cost: one forward pass over
    all pairs.

    Args:
        task: A task of `preference`.
        pairs: The pairs. A reference that they already have is replaced.
        seq: Tokens per row; prompt and answer have at most `seq + 1`.
        batch: Pairs per forward pass; default 8.

    Returns:
        The pairs with the reference, in nats.

    Raises:
        TypeError: If `task` or `pairs` is of another kind.
        ValueError: If `batch` is below 1, or an answer with its prompt is longer than `seq + 1`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr, numpy as np
        >>> from fedjax_llm import DecoderConfig, preference
        >>> from fedjax_llm.data import Corpus, Pairs
        >>> from fedjax_llm.tasks import with_reference
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = preference(config, key=jr.key(0))
        >>> task = task._replace(params=jax.tree.map(jnp.zeros_like, task.params))
        >>> tokens = np.frombuffer(b"2+2=4" b"2+2=5", np.uint8)  # chosen, rejected
        >>> answers = np.array([False, False, False, False, True] * 2)
        >>> corpus = Corpus(("ann",), tokens, np.array([0, 10]), 256, np.array([0, 5, 10]), answers)
        >>> reference = with_reference(task, Pairs(corpus), seq=4).reference
        >>> [round(float(nats), 3) for nats in reference]  # -log 256
        [-5.545, -5.545]

    """
    check_task(task, who="with_reference")
    remedy = "give one of its fields" if hasattr(pairs, "unseen_clients") else ""
    check_kind(pairs, Pairs, who="with_reference", name="pairs", expected="Pairs", remedy=remedy)
    check_count(batch, who="with_reference", name="batch")

    @jax.jit
    def reference(params: Params, frozen: Frozen, batch: PairBatch) -> Float[Array, "batch 2"]:
        return log_likelihood(task.model(params, frozen), batch)

    rows = pairs._replace(reference=None).rows(range(len(pairs.names)), seq=seq)
    count = int(rows.counts.sum())
    result = np.zeros((count, 2), np.float32)
    for start in range(0, count, batch):
        order = np.arange(start, start + batch)
        wanted = order < count
        chunk = rows.take(np.minimum(order, count - 1), wanted)
        result[start : start + batch] = reference(task.params, task.frozen, chunk)[wanted]
    return pairs._replace(reference=result.reshape(-1))


def margins(task: Task, *, beta: float = 0.1) -> Measure:
    """Measure the DPO margin of each pair, in nats.

    Args:
        task: A task of `preference`.
        beta: Factor of the margin, as in `preference`; default 0.1.

    Returns:
        A measure on a `PairBatch`. It raises `ValueError` for a batch without reference.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: Unless `beta` is a finite number above 0.

    Example:
        >>> import jax.random as jr, numpy as np
        >>> from fedjax_llm import DecoderConfig, preference
        >>> from fedjax_llm.data import PairBatch
        >>> from fedjax_llm.tasks import margins
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = preference(config, key=jr.key(0))
        >>> text = np.frombuffer(b"2+2=4" b"2+2=5", np.uint8).reshape(1, 2, 5)
        >>> counted = np.zeros((1, 2, 4), bool)  # no token counts: log-probabilities of 0
        >>> reference = np.array([[-3.0, -2.0]])
        >>> batch = PairBatch(text[..., :-1], text[..., 1:], counted, reference, np.ones(1, bool))
        >>> margins(task, beta=0.5)(task.params, task.frozen, batch).totals.tolist()  # (3 - 2) / 2
        [0.5]

    """
    check_task(task, who="margins")
    check_scalar(beta, who="margins", name="beta", above=0)

    def measure(params: Params, frozen: Frozen, batch: PairBatch) -> Scores:
        gained = gains(log_likelihood(task.model(params, frozen), batch), batch)
        return Scores(beta * gained * batch.mask, jnp.float32(batch.mask))

    return measure


def preferred(task: Task) -> Measure:
    """Measure the share of pairs whose chosen answer gained more than the rejected one.

    A pair scores 1 if its margin is above 0, else 0, and NaN where the model has diverged. No
    answer of the initial model has gained yet, so that it scores 0 in batches of the shape of
    `with_reference`; in others a pair may count by rounding.

    Args:
        task: A task of `preference`.

    Returns:
        A measure on a `PairBatch`. It raises `ValueError` for a batch without reference.

    Raises:
        TypeError: If `task` is not a `Task`.

    Example:
        >>> import jax.random as jr, numpy as np
        >>> from fedjax_llm import DecoderConfig, preference
        >>> from fedjax_llm.data import PairBatch
        >>> from fedjax_llm.tasks import preferred
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = preference(config, key=jr.key(0))
        >>> text = np.frombuffer(b"2+2=4" b"2+2=5", np.uint8).reshape(1, 2, 5)
        >>> counted = np.zeros((1, 2, 4), bool)  # no token counts: log-probabilities of 0
        >>> reference = np.array([[-3.0, -2.0]])
        >>> batch = PairBatch(text[..., :-1], text[..., 1:], counted, reference, np.ones(1, bool))
        >>> preferred(task)(task.params, task.frozen, batch).totals.tolist()  # 3 > 2
        [1.0]

    """
    check_task(task, who="preferred")

    def measure(params: Params, frozen: Frozen, batch: PairBatch) -> Scores:
        gained = gains(log_likelihood(task.model(params, frozen), batch), batch)
        return shares(gained > 0, jnp.asarray(batch.mask), gained)

    return measure


def gains(log_probabilities: Float[Array, "batch 2"], batch: PairBatch) -> Float[Array, " batch"]:
    """Compute how much more the chosen answer gained over its reference than the rejected one.

    Args:
        log_probabilities: Of the chosen and the rejected answers, in nats.
        batch: The pairs, with reference.

    Returns:
        The difference of the two gains, in nats.

    Raises:
        ValueError: For a batch without reference.

    """
    if batch.reference is None:
        raise ValueError(
            "preference: batch: expected pairs with log-probabilities of the reference, got none; "
            "with_reference(task, pairs, seq=seq) computes them."
        )
    gained = log_probabilities - batch.reference
    return gained[..., 0] - gained[..., 1]
