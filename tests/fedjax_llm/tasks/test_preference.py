"""DPO: the loss against NumPy, the reference, and a federation that learns preferences."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import DecoderConfig, fed_avg, lora, preference
from fedjax_llm.data import Batching, Message, Pair, PairBatch, all_windows, tokenize_pairs
from fedjax_llm.simulation import simulate
from fedjax_llm.tasks import margins, preferred, with_reference
from fedjax_llm.tasks.preference import gains
from tests.helpers.fast_tokenizers import byte_level

SEQ = 24
PROMPTS = ["the cat", "hello", "on the mat", "system"]


@pytest.fixture(scope="module")
def bpe():
    return byte_level()


@pytest.fixture(scope="module")
def tiny(bpe):
    return DecoderConfig(
        vocab_size=len(bpe), hidden_size=16, intermediate_size=24, num_attention_heads=2
    )


@pytest.fixture(scope="module")
def pairs(bpe):
    """Pairs of three clients, in which the chosen answer has the word mat."""
    ways = [("mat.", "cat"), ("the mat", "the cat"), ("sat on mat", "sat"), ("mat mat", "hello")]
    examples = {
        f"client {i}": [
            Pair((Message("user", prompt),), *way) for prompt in PROMPTS[i:] for way in ways
        ]
        for i in range(3)
    }
    return tokenize_pairs(examples, bpe, seq=SEQ)


@pytest.fixture(scope="module")
def task(tiny):
    return preference(tiny, key=jr.key(0), adapter=lora(rank=4), beta=0.5)


@pytest.fixture(scope="module")
def ready(task, pairs):
    return with_reference(task, pairs, seq=SEQ, batch=5)


def some(pairs, count=4):
    return jax.tree.map(lambda leaf: leaf[0], all_windows(pairs, seq=SEQ, batch=count))


def test_a_margin_computed_by_hand():
    """The chosen answer gained 1, the rejected one lost 0.5: with beta 0.2 the margin is 0.3."""
    batch = PairBatch(None, None, None, np.array([[-3.0, -2.0]]), np.ones(1, bool))
    gained = gains(jnp.array([[-2.0, -2.5]]), batch)
    np.testing.assert_allclose(gained, [1.5])
    np.testing.assert_allclose(jax.nn.softplus(-0.2 * gained), [np.log(1 + np.exp(-0.3))])


@pytest.mark.slow
def test_the_loss_at_the_start_is_log_2(task, ready):
    np.testing.assert_allclose(
        task.loss(task.params, task.frozen, some(ready)), np.log(2), rtol=1e-6
    )
    batches = all_windows(ready, seq=SEQ, batch=7)
    mean = task.evaluate(task.params, task.frozen, batches)
    np.testing.assert_allclose(mean, np.log(2), rtol=1e-5)


def moved(task):
    keys = iter(jr.split(jr.key(1), 99))
    return jax.tree.map(lambda p: p + 0.3 * jr.normal(next(keys), p.shape), task.params)


@pytest.mark.slow
def test_the_loss_equals_that_of_numpy(task, ready):
    params, batch = moved(task), some(ready)
    model = task.model(params, task.frozen)
    losses, differences = [], []
    for row in range(4):
        likelihoods = []
        for answer in range(2):
            ids = jnp.asarray(batch.tokens[row, answer], jnp.int32)
            logits = np.asarray(model(ids[None])[0], np.float64)
            log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            picked = log_p[np.arange(SEQ), batch.targets[row, answer]]
            likelihoods.append(picked[batch.counted[row, answer]].sum())
        won, lost = np.array(likelihoods) - batch.reference[row].astype(np.float64)
        losses.append(np.log(1 + np.exp(-0.5 * (won - lost))))
        differences.append(0.5 * (won - lost))
    got = task.loss(params, task.frozen, batch)
    assert abs(got - np.log(2)) > 0.01
    np.testing.assert_allclose(got, np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(task.nats(params, task.frozen, batch).totals, losses, rtol=1e-4)
    margin = margins(task, beta=0.5)(params, task.frozen, batch)
    np.testing.assert_allclose(margin.totals, differences, rtol=1e-3, atol=1e-5)
    right = preferred(task)(params, task.frozen, batch)
    np.testing.assert_array_equal(right.totals, np.array(differences) > 0)
    diverged = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    assert np.isnan(preferred(task)(diverged, task.frozen, batch).totals).all()


@pytest.mark.slow
def test_masked_pairs_do_not_count(task, ready):
    params, batch = moved(task), some(ready)
    one = batch._replace(mask=np.array([True, False, False, False]))
    alone = jax.tree.map(lambda leaf: leaf[:1], batch)
    np.testing.assert_allclose(
        task.loss(params, task.frozen, one), task.loss(params, task.frozen, alone), rtol=1e-5
    )
    for measure in (task.nats, margins(task), preferred(task)):
        scores = measure(params, task.frozen, one)
        assert scores.counts.tolist() == [1, 0, 0, 0]
        assert scores.totals[1:].tolist() == [0, 0, 0]


@pytest.mark.slow
def test_the_reference_does_not_depend_on_the_batch_size(task, pairs, ready):
    other = with_reference(task, ready, seq=SEQ, batch=64)
    np.testing.assert_allclose(ready.reference, other.reference, rtol=1e-5)
    assert ready.reference.shape == (2 * pairs.pieces().sum(),)
    assert (ready.reference < 0).all()


@pytest.mark.slow
def test_pairs_without_reference_are_refused(task, pairs):
    with pytest.raises(
        ValueError, match=r"preference: batch: expected pairs with log-prob.*with_refer"
    ):
        task.loss(task.params, task.frozen, some(pairs))


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_beta_is_above_zero(tiny, beta):
    with pytest.raises(
        ValueError, match=r"preference: beta: expected a (finite )?number above 0, got"
    ):
        preference(tiny, key=jr.key(0), beta=beta)


@pytest.mark.slow
def test_a_federation_learns_what_is_preferred(task, ready):
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adam(0.02))
    batching = Batching(seq=SEQ, batch=4, steps=4)
    federation = (algorithm, task.params, task.frozen, ready, batching)
    rounds = list(simulate(*federation, rounds=4, clients=2, seed=0))
    batches = all_windows(ready, seq=SEQ, batch=9)
    trained = rounds[-1].state.params
    assert task.evaluate(trained, task.frozen, batches) < 0.5 < np.log(2)
    last = jax.tree.map(lambda leaf: leaf[-1], batches)
    assert (margins(task, beta=0.5)(trained, task.frozen, last).totals > 0).mean() > 0.9
    assert rounds[0].client_info.targets.tolist() == [16, 16]
