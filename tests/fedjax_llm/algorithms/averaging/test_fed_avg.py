from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, eden, identity

from fedjax_llm import fed_avg
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batching, all_windows, cohort_batches
from fedjax_llm.simulation import chunked, scan, simulate, vmap

KEY = jr.key(0)


def close(one, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), one, other)


def one_round(algorithm, task, batches, weights):
    """A round by hand, one client after another."""
    client_update, add = jax.jit(algorithm.client_update), jax.jit(algorithm.gather.add)
    downlink, state = algorithm.broadcast(KEY, algorithm.init(KEY, task.params))
    partial = algorithm.gather.empty(state, len(weights))
    for row, weight in enumerate(weights):
        own = jax.tree.map(lambda leaf, row=row: leaf[row], batches)
        memory = algorithm.client_init(task.params)
        uplink, _, _ = client_update(jr.fold_in(KEY, row), task.frozen, downlink, memory, own)
        stacked = jax.tree.map(lambda leaf: leaf[None], uplink)
        partial = add(state, partial, stacked, jnp.array([weight], jnp.float32))
    return algorithm.server_update(KEY, state, partial)


def batches_of(corpus, clients, **kwargs):
    batching = Batching(seq=16, batch=4, **kwargs)
    seeds = np.array([[0, client] for client in clients], np.uint32)
    return jax.tree.map(jnp.asarray, cohort_batches(corpus, batching, clients, seeds))


@pytest.mark.slow
def test_one_client_at_server_rate_one_is_plain_local_training(task, corpus):
    batches = batches_of(corpus, [6], steps=5)
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.1, momentum=0.9))
    state, info = one_round(algorithm, task, batches, [17.0])
    params, optimizer = task.params, optax.sgd(0.1, momentum=0.9)
    gradient = jax.jit(jax.grad(task.loss))
    memory = optimizer.init(params)
    for step in range(5):
        batch = jax.tree.map(lambda leaf, step=step: leaf[0, step], batches)
        updates, memory = optimizer.update(gradient(params, {}, batch), memory, params)
        params = optax.apply_updates(params, updates)
    close(state.params, params, 1e-6)
    assert int(info.accepted) == 1


@pytest.mark.slow
def test_all_clients_with_one_full_batch_step_are_centralised_sgd(task, corpus):
    rate = 0.3
    windows = -(-int(corpus.targets().max()) // 16)
    batching = Batching(seq=16, batch=windows, epochs=1)
    clients = list(range(7))
    seeds = np.array([[0, client] for client in clients], np.uint32)
    batches = jax.tree.map(jnp.asarray, cohort_batches(corpus, batching, clients, seeds))
    assert batches.tokens.shape[1] == 1
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(rate))
    state, _ = one_round(algorithm, task, batches, corpus.targets())
    everything = jax.tree.map(lambda leaf: leaf[0], all_windows(corpus, seq=16, batch=200))
    gradient = jax.jit(jax.grad(task.loss))(task.params, {}, everything)
    close(state.params, jax.tree.map(lambda p, g: p - rate * g, task.params, gradient), 1e-6)


@pytest.mark.slow
def test_the_mean_is_weighted(task, corpus):
    batches = batches_of(corpus, [3, 6], steps=2)
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.5))
    both, _ = one_round(algorithm, task, batches, [1.0, 3.0])
    alone = [
        one_round(algorithm, task, batches, weights)[0].params
        for weights in ([1.0, 0.0], [0.0, 1.0])
    ]
    close(both.params, jax.tree.map(lambda a, b: 0.25 * a + 0.75 * b, *alone), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.7, momentum=0.9, nesterov=True),
        optax.adam(0.1),
        optax.yogi(0.1),
        optax.adagrad(0.1),
    ],
)
def test_the_server_takes_minus_the_mean_update_for_a_gradient(task, corpus, optimizer):
    batches = batches_of(corpus, [3], steps=2)
    plain = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.5))
    moved, _ = one_round(plain, task, batches, [1.0])
    gradient = jax.tree.map(lambda p, m: p - m, task.params, moved.params)
    updates, _ = optimizer.update(gradient, optimizer.init(task.params), task.params)
    algorithm = fed_avg(
        task.loss, task.params, client_optimizer=optax.sgd(0.5), server_optimizer=optimizer
    )
    state, _ = one_round(algorithm, task, batches, [1.0])
    close(state.params, optax.apply_updates(task.params, updates), 1e-5)


@pytest.mark.slow
def test_both_directions_go_through_their_codecs(task, corpus):
    batches = batches_of(corpus, [3], steps=1)
    down = codec("stochastic_quantize(bits=8)")
    algorithm = fed_avg(
        task.loss, task.params, client_optimizer=optax.sgd(0.0), uplink=identity(), downlink=down
    )
    state = algorithm.init(KEY, task.params)
    downlink, state = algorithm.broadcast(KEY, state)
    received = down.decode(downlink.params.payload, task.params)
    assert any(
        (a != b).any()
        for a, b in zip(jax.tree.leaves(received), jax.tree.leaves(task.params), strict=True)
    )
    uplink, _, _ = algorithm.client_update(
        KEY,
        {},
        downlink,
        algorithm.client_init(task.params),
        jax.tree.map(lambda leaf: leaf[0], batches),
    )
    close(uplink, jax.tree.map(jnp.zeros_like, uplink), 0.0)  # trained from what was received


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["identity()", "eden(bits=1)", "error_feedback(top_k(fraction=0.1))"]
)
def test_a_client_with_a_nan_loss_is_counted_and_left_out(task, corpus, text):
    def loss(params, frozen, batch):
        poisoned = (batch.tokens[0, 0] == 255) & batch.mask.any()
        return jnp.where(poisoned, jnp.nan, task.loss(params, frozen, batch))

    batches = batches_of(corpus, [3, 6], steps=2)
    broken = batches._replace(tokens=batches.tokens.at[1, 1, 0, 0].set(255))
    algorithm = fed_avg(loss, task.params, client_optimizer=optax.sgd(0.5), uplink=codec(text))
    state, info = one_round(algorithm, task, broken, [1.0, 3.0])
    alone, _ = one_round(algorithm, task, batches, [1.0, 0.0])
    assert (int(info.accepted), int(info.failed)) == (1, 1)
    close(state.params, alone.params, 1e-7)


@pytest.mark.slow
def test_where_all_clients_fail_the_server_stays_as_it_was(task, corpus):
    algorithm = fed_avg(
        lambda params, frozen, batch: jnp.nan * task.loss(params, frozen, batch),
        task.params,
        client_optimizer=optax.sgd(0.5),
        server_optimizer=optax.adam(0.1),
    )
    before = algorithm.init(KEY, task.params)
    after, info = one_round(algorithm, task, batches_of(corpus, [1, 2], steps=1), [1.0, 1.0])
    assert (int(info.accepted), int(info.failed)) == (0, 2)
    close(after, before, 0.0)


@pytest.mark.slow
def test_partial_sums_merge(task, corpus):
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.5))
    state = algorithm.init(KEY, task.params)
    rows = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), task.params)
    empty = algorithm.gather.empty(state, 3)
    weights = jnp.array([1.0, 2.0, 3.0])
    whole = algorithm.gather.add(state, empty, rows, weights)
    parts = [
        algorithm.gather.add(state, empty, jax.tree.map(lambda r, p=p: r[p], rows), weights[p])
        for p in (slice(0, 1), slice(1, 3))
    ]
    close(algorithm.gather.merge(*parts), whole, 1e-5)


@pytest.mark.slow
def test_masked_out_steps_change_nothing(task, corpus):
    batches = jax.tree.map(lambda leaf: leaf[0], batches_of(corpus, [3], steps=3))
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf[:2])]), batches)
    train = jax.jit(local_steps(task.loss, optax.adamw(0.01)))
    params, info = train(task.params, {}, batches)
    longer, same = train(task.params, {}, padded)
    close(longer, params, 0.0)
    assert float(same.loss) == pytest.approx(float(info.loss))
    assert int(same.targets) == int(info.targets)


@pytest.mark.slow
def test_a_client_without_targets_keeps_its_parameters(task, corpus):
    batches = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), batches_of(corpus, [3], steps=2))
    params, info = local_steps(task.loss, optax.adam(0.1))(task.params, {}, batches)
    close(params, task.params, 0.0)
    assert (float(info.loss), int(info.targets)) == (0.0, 0)


def test_parameters_of_another_structure_are_refused(task):
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"fed_avg: params: expected .* in like, got float32"):
        algorithm.init(KEY, {"embedding": jnp.zeros((2, 2))})
    with pytest.raises(
        ValueError, match=r"fed_avg: params: expected \d+ arrays, as in like, got 0"
    ):
        algorithm.init(KEY, {})


class Point(NamedTuple):
    """A batch of one step of the quadratic: the client's optimum, and the mask."""

    optimum: jax.Array
    mask: jax.Array


OPTIMA = 10 * jr.normal(jr.key(7), (6, 20)) + jnp.arange(20.0)
"""The distant optima of six clients; the optimum of their mean loss is the mean of these."""


def quadratic(
    uplink="identity()", downlink="identity()", rounds=300, rate=0.05, cohort=None, prediction=0.0
):
    """The distance from the optimum after some rounds of one gradient step, and failures."""

    def loss(params, frozen, batch):
        return 0.5 * ((params - batch.optimum) ** 2).sum()

    algorithm = fed_avg(
        loss,
        jnp.zeros(20),
        client_optimizer=optax.sgd(rate),
        uplink=codec(uplink),
        downlink=codec(downlink),
        prediction=prediction,
        population=6,
    )
    points = Point(OPTIMA[:, None], jnp.ones((6, 1)))

    @jax.jit
    def one(key, state, own, points):
        sent, state = algorithm.broadcast(key, state)
        keys = jr.split(jr.fold_in(key, 1), len(points.mask))
        update = jax.vmap(algorithm.client_update, in_axes=(0, None, None, 0, 0))
        uplinks, own, _ = update(keys, {}, sent, own, points)
        partial = algorithm.gather.empty(state, len(keys))
        partial = algorithm.gather.add(state, partial, uplinks, jnp.ones(len(keys)))
        return *algorithm.server_update(key, state, partial), own

    state = algorithm.init(KEY, jnp.zeros(20))
    first = algorithm.client_init(jnp.zeros(20))
    own = jax.tree.map(lambda leaf: jnp.stack([leaf] * 6), first)
    failed = 0
    for number in range(rounds):
        drawn = np.arange(6) if cohort is None else np.sort(cohort(number))
        here = jax.tree.map(lambda leaf, drawn=drawn: leaf[drawn], (own, points))
        state, info, after = one(jr.fold_in(KEY, number), state, *here)
        own = jax.tree.map(lambda leaf, new, drawn=drawn: leaf.at[drawn].set(new), own, after)
        failed += int(info.failed)
    return float(jnp.abs(state.params - OPTIMA.mean(axis=0)).max()), failed


@pytest.mark.slow
def test_ef21_reaches_the_optimum_where_top_k_stalls():
    plain, _ = quadratic("top_k(fraction=0.1)")
    memory, failed = quadratic("ef21(top_k(fraction=0.1))")
    assert (plain > 0.5, memory < 1e-3, failed) == (True, True, 0)


@pytest.mark.long
def test_ef21_reaches_the_optimum_with_half_of_the_clients_a_round():
    def half(number):
        return np.random.default_rng(number).permutation(6)[:3]

    memory, _ = quadratic("ef21(top_k(fraction=0.3))", rounds=600, cohort=half)
    plain, _ = quadratic("top_k(fraction=0.3)", rounds=600, cohort=half)
    assert (plain > 0.5, memory < 1e-3) == (True, True)


@pytest.mark.long
def test_diana_reaches_the_optimum_where_its_codec_alone_stalls():
    plain, _ = quadratic("random_k(fraction=0.5)")
    memory, _ = quadratic("diana(random_k(fraction=0.5), rate=0.5)")
    assert (plain > 0.1, memory < 1e-3) == (True, True)


@pytest.mark.long
def test_ef21_in_both_directions_reaches_the_optimum():
    top = "ef21(top_k(fraction=0.2))"
    error, failed = quadratic(top, top, rounds=600, rate=0.02)
    assert (error < 1e-3, failed) == (True, 0)
    assert quadratic(top, "top_k(fraction=0.2)", rounds=600, rate=0.02)[0] > 0.5


@pytest.mark.slow
def test_a_client_that_missed_a_message_is_counted_as_failed():
    def late(number):
        return np.arange(5) if number == 3 else np.arange(6)

    error, failed = quadratic(downlink="ef21(top_k(fraction=0.5))", rounds=10, cohort=late)
    assert failed == 6  # the last client, in each round after the one it missed
    assert np.isfinite(error)


@pytest.mark.slow
def test_where_all_clients_fail_the_receiver_memory_stays_as_it_was(task, corpus):
    algorithm = fed_avg(
        lambda params, frozen, batch: jnp.nan * task.loss(params, frozen, batch),
        task.params,
        client_optimizer=optax.sgd(0.5),
        uplink=codec("ef21(top_k(fraction=0.1))"),
        population=1,
    )
    before = algorithm.init(KEY, task.params)
    after, _ = one_round(algorithm, task, batches_of(corpus, [1], steps=1), [1.0])
    close(after, before, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), scan(), chunked(2)])
def test_simulations_run_with_memory_at_both_ends(task, corpus, axis):
    algorithm = fed_avg(
        task.loss,
        task.params,
        client_optimizer=optax.sgd(0.5),
        uplink=codec("ef21(top_k(fraction=0.1))"),
        population=float(corpus.targets().sum()),
    )
    batching = Batching(seq=16, batch=4, steps=1)
    rounds = list(
        simulate(
            algorithm,
            task.params,
            {},
            corpus,
            batching,
            rounds=2,
            clients=3,
            seed=0,
            client_axis=axis,
        )
    )
    assert [int(r.server_info.accepted) for r in rounds] == [3, 3]
    assert float(rounds[1].server_info.update_norm) > 0


@pytest.mark.slow
def test_a_prediction_is_the_last_aggregate_and_changes_nothing_with_exact_codecs(task, corpus):
    batches = batches_of(corpus, [3, 6], steps=1)
    algorithms = [
        fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.5), prediction=p)
        for p in (0.0, 0.5)
    ]
    plain, _ = one_round(algorithms[0], task, batches, [1.0, 3.0])
    state, _ = one_round(algorithms[1], task, batches, [1.0, 3.0])
    close(state.params, plain.params, 1e-6)
    close(state.known, jax.tree.map(jnp.subtract, state.params, task.params), 1e-6)
    exact = state.known
    sent, state = algorithms[1].broadcast(KEY, state)
    close(eden(bits=4).decode(sent.known, task.params), state.known, 0.0)  # both ends have it
    error = optax.tree.norm(jax.tree.map(jnp.subtract, state.known, exact)) ** 2
    assert float(error / optax.tree.norm(exact) ** 2) == pytest.approx(0.0096, rel=0.3)
    # a second round, with something known at both ends
    own = jax.tree.map(lambda leaf: leaf[0], batches)
    memory = algorithms[1].client_init(task.params)
    uplink, _, _ = algorithms[1].client_update(KEY, {}, sent, memory, own)
    row = jax.tree.map(lambda leaf: leaf[None], uplink)
    partial = algorithms[1].gather.empty(state, 1)
    partial = algorithms[1].gather.add(state, partial, row, jnp.ones(1))
    direct, _ = local_steps(task.loss, optax.sgd(0.5))(state.params, {}, own)
    close(partial.aggregate.total, jax.tree.map(jnp.subtract, direct, state.params), 1e-6)


@pytest.mark.long
def test_error_feedback_converges_with_a_prediction_too():
    text = "error_feedback(top_k(fraction=0.3))"
    plain, _ = quadratic(text, rounds=900, rate=0.005)
    known, failed = quadratic(text, rounds=900, rate=0.005, prediction=0.5)
    assert failed == 0
    assert known < 1.5 * plain + 1e-3


def test_a_prediction_with_a_receiver_memory_is_refused():
    with pytest.raises(
        ValueError, match="fed_avg: prediction: expected 0 with an uplink that has receiver memory"
    ):
        quadratic("ef21(top_k(fraction=0.1))", prediction=0.5)


@pytest.mark.parametrize("prediction", [-0.1, 1.1, float("nan")])
def test_predictions_out_of_range_are_refused(prediction):
    with pytest.raises(
        ValueError,
        match=r"fed_avg: prediction: expected a (finite )?number at least 0 and at most 1, got",
    ):
        quadratic(prediction=prediction)
