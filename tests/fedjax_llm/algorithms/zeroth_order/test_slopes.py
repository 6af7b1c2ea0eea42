"""Slopes along directions, and the guarantees of single methods without a backward pass."""

import functools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import wire
from fedjax_compression.ops.bits import unpack

from fedjax_llm.algorithms.zeroth_order import (
    decomfl,
    fed_kseed,
    fed_mezo,
    feed_sign,
    fwd_llm,
    spry,
)
from fedjax_llm.algorithms.zeroth_order.slopes import (
    along_all,
    forward,
    lengths,
    moved,
    perturbation,
    replayed,
    two_point,
    walk,
)
from fedjax_llm.ledger import entries, total_bytes
from fedjax_llm.ledger import lengths as sizes
from fedjax_llm.schedules import over_rounds, within_round
from tests.helpers.quadratics import Pull, loss, pulls, rounds

SEED = jnp.array([3, 7], jnp.uint32)
OPTIMA = jnp.array([[1.0, -2.0, 0.5, 3.0], [3.0, 0.0, 0.5, -1.0], [-1.0, 2.0, 2.0, 1.0]])
WEIGHTS = jnp.array([1.0, 2.0, 1.0])
MEAN = (WEIGHTS[:, None] * OPTIMA).sum(axis=0) / 4
START = jnp.zeros(4)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def cubic(params, frozen, batch):
    return (params["a"] ** 3).sum() + (params["a"].sum() * params["b"]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [forward, functools.partial(two_point, radius=1e-2)])
def test_estimates_are_unbiased_and_their_second_moment_is_d_plus_two(kind):
    params = {"a": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array([[1.0, -0.5]])}
    gradient = jax.grad(cubic)(params, {}, ())
    slope, draws, size = kind(cubic), 20_000, 5

    @jax.jit
    def estimate(number):
        z = perturbation(params, SEED, number)
        return jax.tree.map(lambda leaf: slope(params, {}, (), z)[1] * leaf, z)

    got = jax.lax.map(estimate, jnp.arange(draws), batch_size=1000)
    flat = np.concatenate([np.asarray(leaf).reshape(draws, -1) for leaf in jax.tree.leaves(got)], 1)
    g = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])
    square = float(g @ g)
    # an entry's variance is ||g||^2 + g_i^2; four standard deviations of the mean
    assert (np.abs(flat.mean(axis=0) - g) < 4 * np.sqrt((square + g**2) / draws)).all()
    moment = (flat**2).sum(axis=1).mean() / square
    # of (g.z / ||g||)^2 ||z||^2, whose second moment is 3 (d + 4) (d + 6)
    spread = math.sqrt((3 * (size + 4) * (size + 6) - (size + 2) ** 2) / draws)
    assert abs(moment - (size + 2)) < 4 * spread
    assert abs(moment - size) > 4 * spread  # which it would be for signs instead of Gaussians


def test_the_forward_slope_is_exact_and_two_points_are_off_by_the_third_derivative():
    params = {"a": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array([[1.0, -0.5]])}
    z = perturbation(params, SEED, jnp.array(4))
    gradient = jax.grad(cubic)(params, {}, ())
    exact = float(optax.tree.vdot(gradient, z))
    value, got = forward(cubic)(params, {}, (), z)
    assert float(value) == float(cubic(params, {}, ()))
    np.testing.assert_allclose(got, exact, rtol=1e-5)
    for radius in (0.5, 0.25):
        _, near = two_point(cubic, radius=radius)(params, {}, (), z)
        third = radius**2 * float((z["a"] ** 3).sum())  # of a^3, whose third derivative is 6
        np.testing.assert_allclose(float(near) - exact, third, rtol=1e-3)


def test_directions_differ_by_seed_number_and_tensor_and_have_eight_bits():
    like = {"a": jnp.zeros(500), "b": jnp.zeros(500)}
    z = perturbation(like, SEED, jnp.array(0))
    others = (
        perturbation(like, SEED, jnp.array(1)),
        perturbation(like, SEED + 1, jnp.array(0)),
        {"a": z["b"], "b": z["a"]},
    )
    for other in others:
        assert abs(np.corrcoef(z["a"], other["a"])[0, 1]) < 0.2
    assert bits(perturbation(like, SEED, jnp.array(0))) == bits(z)
    np.testing.assert_array_equal(z["a"], z["a"].astype(jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(np.var(np.concatenate([z["a"], z["b"]])), 1, atol=0.2)


@pytest.mark.slow
def test_a_step_rounds_once_whatever_program_it_is_in():
    params = jr.normal(jr.key(0), (300,)) * jnp.logspace(-4, 1, 300)
    lengths_, numbers = jr.normal(jr.key(1), (7,)) / 3, jnp.arange(7)
    in_a_scan = jax.jit(replayed)(params, SEED, numbers, lengths_)
    rows = jax.jit(jax.vmap(replayed, (0, None, None, None)))(
        jnp.stack([params, params + 1]), SEED, numbers, lengths_
    )
    one_by_one, exactly = params, np.asarray(params)
    for number, by in zip(numbers, lengths_, strict=True):
        z = perturbation(params, SEED, number)
        one_by_one = moved(one_by_one, z, by)
        short = np.float64(jax.lax.reduce_precision(by, 8, 15))
        exactly = (exactly.astype(np.float64) + short * np.asarray(z, np.float64)).astype(
            np.float32
        )
    assert bits(in_a_scan) == bits(rows[0]) == bits(one_by_one) == bits(exactly)


def test_the_slope_over_all_batches_is_weighted_by_targets():
    batches = Pull(OPTIMA, jnp.ones((3, 4)), jnp.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]]))
    broken = batches._replace(optimum=batches.optimum.at[1].set(jnp.nan))  # has no targets
    z = perturbation(START, SEED, jnp.array(0))
    got, info = along_all(forward(loss))(START, {}, broken, z)
    expected = -(2 * OPTIMA[0] + OPTIMA[2]) / 3 @ z
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert int(info.targets) == 3
    np.testing.assert_allclose(info.loss, (OPTIMA[0] @ OPTIMA[0] + OPTIMA[2] @ OPTIMA[2] / 2) / 3)


SGD = optax.sgd(0.05)
SOLVERS = {
    "fed_mezo": (lambda: fed_mezo(loss, START, client_optimizer=SGD), 0.05),
    "fed_kseed": (lambda: fed_kseed(loss, START, client_optimizer=SGD, seeds=64), 0.05),
    "decomfl": (lambda: decomfl(loss, START, client_optimizer=SGD, steps=3, draws=2), 0.02),
    "feed_sign": (lambda: feed_sign(loss, START, client_optimizer=optax.sgd(0.01)), 0.15),
    "fwd_llm": (
        lambda: fwd_llm(loss, START, server_optimizer=optax.sgd(0.1), draws=2, candidates=3),
        0.02,
    ),
    "spry": (lambda: spry(loss, START, server_optimizer=optax.sgd(0.1), draws=2), 0.02),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_a_quadratic_is_solved(name):
    """All clients have the same optimum, as local steps drift and a vote is not a mean."""
    build, tolerance = SOLVERS[name]
    batches = pulls(jnp.stack([OPTIMA[0]] * 3), steps=3)
    state, _ = rounds(build(), START, batches, WEIGHTS, number=600)
    assert float(jnp.abs(state.params - OPTIMA[0]).max()) < tolerance


@functools.cache
def one_program(algorithm):
    @jax.jit
    def program(key, state, own, batches, weights):
        sent, state = algorithm.broadcast(key, state)
        keys = jax.vmap(jr.fold_in, (None, 0))(key, jnp.arange(len(weights)))
        update = jax.vmap(algorithm.client_update, (0, None, None, 0, 0))
        uplinks, own, _ = update(keys, {}, sent, own, batches)
        partial = algorithm.gather.empty(state, len(weights))
        partial = algorithm.gather.add(state, partial, uplinks, weights)
        after, info = algorithm.server_update(key, state, partial)
        return after, own, sent, uplinks, info

    return program


def one_round(algorithm, state, own, batches, weights=WEIGHTS, number=0):
    """Server state, client states, downlink, uplinks and info of a round."""
    return one_program(algorithm)(jr.fold_in(jr.key(5), number), state, own, batches, weights)


def begin(algorithm, params, clients):
    own = algorithm.client_init(params)
    own = jax.tree.map(lambda leaf: jnp.stack([leaf] * clients), own)
    return algorithm.init(jr.key(0), params), own


@pytest.mark.slow
def test_kseed_is_replayed_from_the_sums_of_its_messages_bit_for_bit():
    rate, seeds = 0.05, 16
    algorithm = fed_kseed(loss, START, client_optimizer=optax.sgd(rate), seeds=seeds)
    state, own = begin(algorithm, START, 1)
    batches = pulls(OPTIMA[:1], steps=5)
    sums = np.zeros(seeds, np.float32)
    for number in range(4):
        state, own, sent, uplinks, _ = one_round(
            algorithm, state, own, batches, jnp.ones(1), number
        )
        heard = wire.loads(wire.dumps(jax.device_get(uplinks)), jax.device_get(uplinks))
        assert bits(sent.slopes) == bits(sums)
        client = np.zeros(seeds, np.float32)
        for k, slope in zip(unpack(heard.numbers[0], 5, bits=4), heard.slopes[0], strict=True):
            client[k] += slope
        sums = sums + client
    assert bits(state.slopes) == bits(sums)
    params = START
    for k in range(seeds):
        by = lengths(jnp.asarray(sums[k : k + 1]), rate=rate)[0]
        params = moved(params, perturbation(START, sent.seed, jnp.array(k)), by)
    assert bits(params) == bits(state.params)
    assert bits(own[0]) == bits(START)


@pytest.mark.slow
def test_a_walk_in_the_pools_order_is_its_replay_bit_for_bit_and_others_to_rounding():
    batches = jax.tree.map(lambda leaf: leaf[0], pulls(OPTIMA[:1], steps=8))
    go = walk(two_point(loss, radius=1e-3), rate=0.05)
    for numbers in (jnp.arange(8), jnp.array([5, 1, 5, 0, 7, 1, 1, 3])):
        trained, slopes, _ = go(START, {}, batches, SEED, numbers[:, None])
        sums = jnp.zeros(8).at[numbers].add(slopes[:, 0])
        again = replayed(START, SEED, jnp.arange(8), lengths(sums[:, None], rate=0.05)[:, 0])
        np.testing.assert_allclose(trained, again, rtol=0, atol=1e-4)
        if (jnp.diff(numbers) > 0).all():
            assert bits(trained) == bits(again)


@pytest.mark.slow
def test_kseed_moves_to_the_weighted_mean_of_its_clients_walks():
    algorithm = fed_kseed(loss, START, client_optimizer=SGD, seeds=32)
    state, own = begin(algorithm, START, 3)
    batches = pulls(OPTIMA, steps=2)
    both, _, sent, uplinks, _ = one_round(algorithm, state, own, batches)
    walks = []
    for row in range(3):
        numbers = unpack(uplinks.numbers[row], 2, bits=5).astype(jnp.int32)
        walks.append(
            replayed(
                START, sent.seed, numbers, lengths(uplinks.slopes[row][:, None], rate=0.05)[:, 0]
            )
        )
    mean = (WEIGHTS[:, None] * jnp.stack(walks)).sum(axis=0) / 4
    np.testing.assert_allclose(both.params, mean, rtol=0, atol=1e-4)
    assert float(jnp.abs(both.params).max()) > 0.01


def listed(algorithm, batches, weights):
    state, own = begin(algorithm, START, len(weights))
    _, _, sent, uplinks, _ = one_round(algorithm, state, own, batches, weights)
    down = len(wire.dumps(jax.device_get(sent)))
    rows = entries(1, range(len(weights)), down, sizes(uplinks))
    return total_bytes(rows, "up"), total_bytes(rows, "down")


HEADER = wire.HEADER_BYTES


@pytest.mark.slow
def test_kseed_of_4096_seeds_and_200_steps_is_under_18_kilobytes_both_ways():
    algorithm = fed_kseed(loss, START, client_optimizer=SGD, seeds=4096)
    got = listed(algorithm, pulls(OPTIMA[:1], steps=200), jnp.ones(1))
    assert got == (HEADER + 200 * 12 // 8 + 200 * 4, HEADER + 8 + 4096 * 4)
    assert sum(got) == 17_516


@pytest.mark.slow
def test_decomfl_sends_slopes_up_and_a_window_of_them_down():
    algorithm = decomfl(loss, START, client_optimizer=SGD, steps=5, draws=3, window=7)
    got = listed(algorithm, pulls(OPTIMA[:1], steps=5), jnp.ones(1))
    assert got == (HEADER + 4 * 15, HEADER + 12 + 7 * 4 * 15)


def test_feed_sign_sends_a_byte_up_and_a_bit_a_missed_round_down():
    algorithm = feed_sign(loss, START, client_optimizer=SGD, window=20)
    got = listed(algorithm, pulls(OPTIMA[:1], steps=5), jnp.ones(1))
    assert got == (HEADER + 1, HEADER + 12 + 3)


REPLAYERS = {
    "decomfl": lambda window: decomfl(
        loss, START, client_optimizer=SGD, steps=2, draws=2, window=window
    ),
    "feed_sign": lambda window: feed_sign(loss, START, client_optimizer=SGD, window=window),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLAYERS)
def test_a_client_that_missed_five_rounds_replays_to_the_servers_parameters(name):
    algorithm = REPLAYERS[name](5)
    late = jnp.array([[True, True, True]] + [[True, True, False]] * 5)
    batches = pulls(OPTIMA, steps=2)
    state, own = rounds(algorithm, START, batches, WEIGHTS, number=6, drawn=late)
    assert (int(own.rounds[2]), int(state.rounds)) == (0, 6)
    assert bits(own.params[2]) != bits(state.params)
    # clients have the state of the last message: five rounds, without the sixth
    before, _ = rounds(algorithm, START, batches, WEIGHTS, number=5, drawn=late[:5])
    assert bits(own.params[0]) == bits(before.params)
    sent, _ = algorithm.broadcast(jr.key(0), before)
    alone = jax.tree.map(lambda leaf: leaf[2], own)
    batch = jax.tree.map(lambda leaf: leaf[2], batches)
    _, caught_up, info = jax.jit(algorithm.client_update)(jr.key(0), {}, sent, alone, batch)
    assert bits(caught_up.params) == bits(before.params)
    assert bits(caught_up.rounds) == bits(before.rounds)
    assert np.isfinite(info.loss)


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLAYERS)
def test_a_client_that_missed_more_than_the_window_fails_and_keeps_its_state(name):
    algorithm = REPLAYERS[name](2)
    late = jnp.array([[True, True, False]] * 3)
    batches = pulls(OPTIMA, steps=2)
    state, own = rounds(algorithm, START, batches, WEIGHTS, number=3, drawn=late)
    new, after, _, _, info = one_round(algorithm, state, own, batches)
    assert (int(info.accepted), int(info.failed)) == (2, 1)
    assert (bits(after.params[2]), int(after.rounds[2])) == (bits(START), 0)
    assert bits(after.params[0]) == bits(state.params)
    assert np.isfinite(new.params).all()


@pytest.mark.slow
def test_feed_sign_follows_the_majority_of_weights():
    algorithm = feed_sign(loss, START, client_optimizer=optax.sgd(0.25))
    # along any z, the first two pull against the third
    batches = pulls(jnp.stack([OPTIMA[0], OPTIMA[0], -OPTIMA[0]]), steps=1)
    state, own = begin(algorithm, START, 3)
    z = perturbation(START, state.seed, jnp.array(0))
    toward = jnp.sign(OPTIMA[0] @ z)
    for weights, sign in (([1.0, 1.0, 1.0], toward), ([1.0, 1.0, 3.0], -toward)):
        new, *_ = one_round(algorithm, state, own, batches, jnp.array(weights))
        np.testing.assert_allclose(new.params, sign * 0.25 * z, rtol=1e-6)


TWO = {"a": jnp.array([1.0, -1.0, 0.5]), "b": jnp.array([2.0, 0.25])}


def apart(params, frozen, batch):
    """A loss whose gradient differs by tensor."""
    return (batch.strength * (params["a"] - batch.optimum) ** 2).sum() + 3 * (
        params["b"] ** 2
    ).sum()


def estimates(algorithm, params, clients):
    """The server's sum over many clients with one batch, their uplinks, and the gradient."""
    ones = jnp.ones((clients, 1, 3))
    batches = Pull(ones, ones, jnp.ones((clients, 1)))
    state, own = begin(algorithm, params, clients)
    sent, state = algorithm.broadcast(jr.key(0), state)
    keys = jr.split(jr.key(3), clients)
    update = jax.jit(jax.vmap(algorithm.client_update, (0, None, None, 0, 0)))
    uplinks, _, _ = update(keys, {}, sent, own, batches)
    partial = algorithm.gather.empty(state, clients)
    partial = jax.jit(algorithm.gather.add)(state, partial, uplinks, jnp.ones(clients))
    batch = jax.tree.map(lambda leaf: leaf[0, 0], batches)
    return partial.aggregate.total, uplinks, jax.grad(apart)(params, {}, batch)


@pytest.mark.slow
def test_sprys_mean_over_the_clients_of_a_slice_is_unbiased():
    algorithm = spry(apart, TWO, server_optimizer=optax.sgd(1.0))
    clients = 4000
    total, uplinks, gradient = estimates(algorithm, TWO, clients)
    owners = np.bincount(uplinks.owned, minlength=2)
    np.testing.assert_array_equal(total.owned, owners)
    assert (np.abs(owners - clients / 2) < 4 * np.sqrt(clients / 4)).all()
    for number, name in enumerate("ab"):
        g = np.asarray(gradient[name])
        found = np.asarray(total.gradient[name]) / owners[number]
        spread = np.sqrt((g @ g + g**2) / owners[number])
        assert (np.abs(found - g) < 4 * spread).all()
        # the variance of a slope within the slice is the slice's squared norm, not the whole's
        slopes = np.asarray(uplinks.slopes[uplinks.owned == number, 0])
        np.testing.assert_allclose((slopes**2).mean(), g @ g, rtol=4 * np.sqrt(2 / owners[number]))


@pytest.mark.slow
def test_spry_does_not_change_a_slice_without_a_client():
    algorithm = spry(apart, TWO, server_optimizer=optax.sgd(0.1))
    state, own = begin(algorithm, TWO, 1)
    ones = jnp.ones((1, 1, 3))
    new, _, _, uplinks, _ = one_round(
        algorithm, state, own, Pull(ones, ones, jnp.ones((1, 1))), jnp.ones(1)
    )
    owned, other = ("a", "b") if int(uplinks.owned[0]) == 0 else ("b", "a")
    assert bits(new.params[other]) == bits(TWO[other])
    assert bits(new.params[owned]) != bits(TWO[owned])


@pytest.mark.slow
def test_fwd_llm_with_one_candidate_is_unbiased_in_both_halves():
    clients = 4000
    algorithm = fwd_llm(apart, TWO, candidates=1)
    total, uplinks, gradient = estimates(algorithm, TWO, clients)
    np.testing.assert_array_equal(total.weight, np.bincount(uplinks.seed[:, 0] % 2, minlength=2))
    square = sum(float(g @ g) for g in gradient.values())
    for name in "ab":
        g = np.asarray(gradient[name])
        for half in range(2):
            weight = float(total.weight[half])
            found = np.asarray(total.gradient[name][half]) / weight
            assert (np.abs(found - g) < 4.5 * np.sqrt((square + g**2) / weight)).all()


@pytest.mark.slow
def test_fwd_llm_keeps_the_candidates_closest_to_the_last_gradient():
    algorithm = fwd_llm(apart, TWO, draws=2, candidates=6)
    state, own = begin(algorithm, TWO, 1)
    ones = jnp.ones((1, 1, 3))
    batches = Pull(ones, ones, jnp.ones((1, 1)))
    state, own, _, uplinks, _ = one_round(algorithm, state, own, batches, jnp.ones(1))
    np.testing.assert_array_equal(uplinks.chosen[0], [[0, 0], [1, 1]])  # no gradient yet
    known = state.gradient
    _, _, sent, uplinks, _ = one_round(algorithm, state, own, batches, jnp.ones(1), 1)
    assert bits(sent.gradient) == bits(known)
    for i, name in enumerate("ab"):
        z = [np.asarray(perturbation(TWO, uplinks.seed[0], jnp.array(k))[name]) for k in range(12)]
        cosines = [v @ np.asarray(known[name]) / np.linalg.norm(v) for v in z]
        assert list(uplinks.chosen[0, :, i]) == list(np.argsort(cosines)[::-1][:2])


def test_fwd_llm_steps_along_its_pool_when_the_halves_agree():
    build = functools.partial(
        fwd_llm, loss, START, server_optimizer=optax.sgd(0.5), candidates=1, variance=2.0
    )
    algorithm = build()
    batches = pulls(jnp.stack([OPTIMA[0]] * 3), steps=1)
    state, own = begin(algorithm, START, 3)
    waited, pooled, weight = 0, np.zeros((2, 4)), np.zeros(2)
    for number in range(40):
        before = state
        state, own, _, uplinks, _ = one_round(algorithm, state, own, batches, WEIGHTS, number)
        for row in range(3):
            half = int(uplinks.seed[row, 0]) % 2
            z = np.asarray(perturbation(START, uplinks.seed[row], jnp.array(0)))
            pooled[half] += float(WEIGHTS[row]) * float(uplinks.slopes[row, 0]) * z
            weight[half] += float(WEIGHTS[row])
        with np.errstate(all="ignore"):
            apart = pooled[0] / weight[0] - pooled[1] / weight[1]
        if weight.all() and (apart**2).mean() / 2 <= 2.0:
            expected = np.asarray(before.params) - 0.5 * pooled.sum(axis=0) / weight.sum()
            np.testing.assert_allclose(state.params, expected, rtol=1e-3, atol=1e-4)
            assert float(state.pool.weight.sum()) == 0
            break
        waited += 1
        assert bits(state.params) == bits(before.params)
        np.testing.assert_allclose(state.pool.weight, weight)
    assert 0 < waited < 39


@pytest.mark.slow
def test_forward_gradient_methods_send_slopes_seed_and_choices():
    batches = pulls(OPTIMA[:1], steps=2)
    got = listed(spry(loss, START, draws=3), batches, jnp.ones(1))
    assert got == (HEADER + 2 + 8 + 4 * 3, HEADER + 4 * 4)
    got = listed(fwd_llm(loss, START, draws=3), batches, jnp.ones(1))
    assert got == (HEADER + 8 + 2 * 3 + 4 * 3, HEADER + 2 * 4 * 4)
    got = listed(fwd_llm(loss, START, draws=3, candidates=1), batches, jnp.ones(1))
    assert got == (HEADER + 8 + 4 * 3, HEADER + 4 * 4)


SEEDED = {
    "fed_kseed": lambda **given: fed_kseed(loss, START, **given),
    "decomfl": lambda **given: decomfl(loss, START, steps=1, **given),
    "feed_sign": lambda **given: feed_sign(loss, START, **given),
}


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.sgd(0.1, momentum=0.9),
        optax.sgd(optax.linear_schedule(0.1, 0.0, 10)),
        optax.chain(optax.sgd(0.1), over_rounds(optax.linear_schedule(1.0, 0.0, 10))),
        optax.chain(optax.sgd(0.1), within_round(optax.constant_schedule(1.0))),
        optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1)),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        optax.sgd(0.0),
        optax.sgd(-0.1),
    ],
)
def test_optimizers_that_cannot_be_replayed_from_sums_are_refused(name, optimizer):
    reason = rf"{name}: client_optimizer: expected optax.sgd\(rate\).*replayed from seeds"
    with pytest.raises(ValueError, match=reason):
        SEEDED[name](client_optimizer=optimizer)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: fed_kseed(loss, START, client_optimizer=SGD, seeds=0),
            "seeds: expected an integer",
        ),
        (
            lambda: fed_kseed(loss, START, client_optimizer=SGD, radius=0.0),
            "radius: expected a number above",
        ),
        (
            lambda: fed_mezo(loss, START, client_optimizer=SGD, radius=-1.0),
            "radius: expected a number above",
        ),
        (lambda: decomfl(loss, START, client_optimizer=SGD, steps=0), "steps: expected an integer"),
        (
            lambda: decomfl(loss, START, client_optimizer=SGD, steps=1, draws=0),
            "draws: expected an integer",
        ),
        (
            lambda: decomfl(loss, START, client_optimizer=SGD, steps=1, window=0),
            "decomfl: window: expected an integer at least 1, got 0",
        ),
        (
            lambda: feed_sign(loss, START, client_optimizer=SGD, window=True),
            "window: expected an integer",
        ),
        (lambda: spry(loss, TWO, slices=3), "spry: slices: expected an integer from 1 to 2"),
        (lambda: spry(loss, TWO, draws=0), "spry: draws: expected an integer"),
        (lambda: fwd_llm(loss, TWO, draws=0), "fwd_llm: draws: expected an integer"),
        (lambda: fwd_llm(loss, TWO, candidates=0), "fwd_llm: candidates: expected an integer"),
        (lambda: fwd_llm(loss, TWO, draws=7000), "at most 65536, got 70000"),
        (lambda: fwd_llm(loss, TWO, variance=0.0), "variance: expected a number above 0"),
        (
            lambda: feed_sign(loss, START, client_optimizer=SGD, radius=-1.0),
            "radius: expected a number above",
        ),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_decomfl_refuses_batches_with_another_number_of_steps():
    algorithm = decomfl(loss, START, client_optimizer=SGD, steps=3)
    state, own = begin(algorithm, START, 1)
    with pytest.raises(ValueError, match="decomfl: batches: expected 3 steps, got 2"):
        one_round(algorithm, state, own, pulls(OPTIMA[:1], steps=2), jnp.ones(1))
