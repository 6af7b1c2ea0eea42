"""Clients' answers on public text, the consensus, and the bytes of both."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, wire

from fedjax_llm.algorithms.distillation import fed_md
from fedjax_llm.algorithms.distillation.fed_md import Lesson
from fedjax_llm.algorithms.distillation.top_tokens import (
    Likeliest,
    cross_entropy,
    likeliest,
    spread,
    token_channel,
)
from fedjax_llm.client_training import local_steps
from fedjax_llm.simulation import round_program, vmap
from tests.helpers import algorithm_table as contract
from tests.helpers import dense_task as table

PLACES = 3 * 2 * 4  # steps, batch and seq of a lot
SHARES = np.asarray(table.WEIGHTS / table.WEIGHTS.sum())


def whole():
    return fed_md(table.loss, table.LIKE, client_optimizer=table.SGD, top=5, **table.ASKED)


@pytest.fixture(scope="module")
def whole_rounds():
    """The states after 0, 1 and 2 rounds in which all tokens are sent."""
    algorithm = whole()
    one = round_program(algorithm, vmap())
    found = [contract.start(table, algorithm)]
    for number in range(2):
        found.append(contract.play(table, one, *found[-1], [number])[:2])
    return found


def predictions(own, lot):
    """Each client's prediction on a lot: `[clients, steps, batch, seq, vocab]`."""
    return jax.vmap(lambda params: jax.nn.softmax(table.logits(params, {}, lot)))(own)


@pytest.mark.slow
def test_the_consensus_is_the_mean_distribution_where_all_tokens_are_sent(whole_rounds):
    for number in (1, 2):
        state, own = whole_rounds[number]
        mean = np.tensordot(SHARES, predictions(own, table.PUBLIC[number - 1]), axes=1)
        np.testing.assert_allclose(state.consensus.probabilities, mean, atol=1e-6)
        np.testing.assert_allclose(mean.sum(axis=-1), 1, atol=1e-6)
        assert int(state.known) == number


@pytest.mark.slow
def test_unsent_tokens_count_as_zero_and_the_consensus_is_the_means_top():
    state, own, _ = contract.play(
        table,
        contract.program("fed_md")[1],
        *contract.start(table, contract.program("fed_md")[0]),
        range(1),
    )
    each = np.asarray(predictions(own, table.PUBLIC[0]))
    kept = np.where(each >= np.sort(each, axis=-1)[..., -2:-1], each, 0)
    mean = np.tensordot(SHARES, kept, axes=1)
    np.testing.assert_allclose(
        state.consensus.probabilities, -np.sort(-mean, axis=-1)[..., :2], atol=1e-6
    )
    at = np.take_along_axis(mean, np.asarray(state.consensus.ids), axis=-1)
    np.testing.assert_allclose(at, state.consensus.probabilities, atol=1e-6)


@pytest.mark.slow
def test_a_client_trains_on_the_consensus_and_then_on_its_own_text(whole_rounds):
    train = local_steps(table.loss, table.SGD)
    start = whole_rounds[0][1]
    _, own = whole_rounds[1]
    contract.close(own, jax.vmap(lambda p, b: train(p, {}, b)[0])(start, table.cohort(0)), 1e-6)

    state, own = whole_rounds[1]
    mask = np.ones(table.PUBLIC.shape[1:], bool)
    lessons = Lesson(jnp.asarray(table.PUBLIC[0]), state.consensus, mask)

    def consensus_loss(params, frozen, lesson):
        log_p = jax.nn.log_softmax(table.logits(params, frozen, lesson.tokens))
        return -(lesson.target.probabilities * log_p).sum(axis=-1).mean()

    def both(params, batches):
        digested, _ = local_steps(consensus_loss, table.SGD)(params, {}, lessons)
        return train(digested, {}, batches)[0]

    contract.close(whole_rounds[2][1], jax.vmap(both)(own, table.cohort(1)), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("top", [1, 2, 4, 5])
def test_a_model_that_agrees_on_the_known_tokens_has_no_gradient(top):
    lot = jnp.asarray(table.PUBLIC[0, 0])
    own = likeliest(jax.nn.softmax(table.logits(table.PARAMS, {}, lot)), top)

    def self_loss(params):
        return cross_entropy(own, table.logits(params, {}, lot)).mean()

    still = jax.grad(self_loss)(table.PARAMS)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(still)) < 1e-6
    other = own._replace(ids=(own.ids + 1) % 5)
    moved = jax.grad(lambda p: cross_entropy(other, table.logits(p, {}, lot)).mean())(table.PARAMS)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moved)) > 1e-3


def test_a_cross_entropy_by_hand():
    """The known tokens have .5 and .2; the other two share .3, where the model has .1 + .2."""
    logits = jnp.log(jnp.array([0.1, 0.4, 0.3, 0.2]))
    target = Likeliest(jnp.array([1, 2]), jnp.array([0.5, 0.2]))
    by_hand = -(0.5 * np.log(0.4) + 0.2 * np.log(0.3) + 0.3 * np.log(0.3))
    np.testing.assert_allclose(cross_entropy(target, logits), by_hand, rtol=1e-6)


@pytest.mark.slow
def test_messages_by_hand():
    """A token of five takes 3 bits; two at each of 24 positions take 18 bytes."""
    downlink, uplinks, _, _ = jax.device_get(contract.played("fed_md")[2])
    first = jax.tree.map(lambda leaf: leaf[0], uplinks)
    assert len(wire.dumps(first)) == 12 + 18 + 4 * 2 * PLACES
    assert len(wire.dumps(downlink)) == 12 + 8 + 18 + 4 * 2 * PLACES
    downlink, uplinks, _, _ = jax.device_get(contract.played("fed_md, coded")[2])
    first = jax.tree.map(lambda leaf: leaf[0], uplinks)
    assert len(wire.dumps(first)) == 12 + 5 * PLACES + 8  # a byte a token, lowest and step


@pytest.mark.slow
def test_ids_outside_the_vocabulary_are_not_counted():
    """Three bits can hold the id 7, which a vocabulary of five does not have."""
    way = token_channel(codec("identity()"), (4, 2), vocab=5)
    sent = Likeliest(jnp.array([[7, 0]] * 4), jnp.full((4, 2), 0.5))
    received = way.receive(way.send(jr.key(0), sent))
    np.testing.assert_array_equal(received.ids, sent.ids)
    total = spread(jnp.zeros((4, 5)), received, jnp.float32(2.0))
    np.testing.assert_array_equal(total, [[1.0, 0, 0, 0, 0]] * 4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"top": 0}, "top: expected an integer at least 1 and at most 5, got 0"),
        ({"top": 6}, "top: expected an integer at least 1 and at most 5, got 6"),
        ({"vocab": 0}, "vocab: expected an integer at least 1 and at most 16777216, got 0"),
        (
            {"public": np.zeros((0, 1, 2, 4), int)},
            r"\[lots, steps, batch, seq\], got shape \(0, 1, 2",
        ),
        ({"public": np.full((1, 1, 2, 4), 5)}, "public: expected tokens from 0 to 4, got 5 to 5"),
        (
            {"uplink": codec("error_feedback(eden(bits=2))")},
            "uplink: expected a codec that keeps no state",
        ),
        (
            {"downlink": codec("ef21(eden(bits=2))")},
            "downlink: expected a codec that keeps no state",
        ),
    ],
)
def test_arguments_that_fed_md_cannot_use_are_refused(flags, message):
    given = {"client_optimizer": table.SGD, "top": 2, **table.ASKED, **flags}
    with pytest.raises(ValueError, match=f"fed_md: .*{message}"):
        fed_md(table.loss, table.LIKE, **given)
