"""Rules whose clients add the noise: `distributed_dp`, in integers of a secure sum, `local_dp`."""

import dp_accounting as dp
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec, eden, fixed_point

from fedjax_llm import aggregators as rules
from fedjax_llm import fed_avg
from fedjax_llm.aggregators.distributed_dp import _integers
from fedjax_llm.algorithms.shared import gather_updates
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.privacy import Account, DiscreteGaussian, Secret, calibrate_noise_multiplier
from fedjax_llm.privacy.integer_noise import draw_skellam
from fedjax_llm.secure_aggregation import codec_setup, integers_of, mean_of, run_round
from fedjax_llm.simulation import CompiledRounds, Conditions, faults, simulate

SIZE, CLIENTS, CLIP = 96, 8, 0.5
LIKE = {"a": jnp.zeros((2, 8)), "b": jnp.zeros(80)}


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def tree_of(rows):
    rows = jnp.asarray(rows, jnp.float32)
    return {"a": rows[..., :16].reshape(*rows.shape[:-1], 2, 8), "b": rows[..., 16:]}


def clipped(rows):
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows * np.minimum(1, CLIP / norms)


def encoded(coder, rows, key=0):
    """Each client's message."""
    keys = jax.random.split(jax.random.key(key), len(rows))
    return jax.jit(jax.vmap(lambda key, row: coder.encode(key, row, coder.init(row))[0]))(
        keys, tree_of(rows)
    )


ROWS = np.random.default_rng(0).normal(size=(CLIENTS, SIZE)).astype(np.float32)
QUIET = rules.distributed_dp(CLIP, 1e-4, clients=CLIENTS, bits=20)


def summed(rule, rows, *, weights=None, key=0):
    """The partial of a round, and the rule that finishes it."""
    coder, _ = rule.at_clients.build(None, LIKE)
    summing = rule.summing(coder, LIKE)
    read = jax.jit(jax.vmap(summing.read))(encoded(coder, rows, key))
    weights = jnp.ones(len(rows)) if weights is None else jnp.asarray(weights, jnp.float32)
    partial = jax.jit(summing.rule.add)(summing.rule.empty(LIKE, CLIENTS), read, weights)
    return partial, summing.rule


def test_the_mean_is_that_of_clipped_updates():
    """With hardly any noise: also of a client that is not finite, which counts as zero."""
    rows = ROWS.copy()
    rows[1] *= 0.01  # within the clip
    rows[2, 5] = np.nan
    partial, rule = summed(QUIET, rows)
    expected = np.delete(clipped(rows), 2, axis=0).sum(0) / CLIENTS
    np.testing.assert_allclose(flat(rule.finish(partial)), expected, atol=1e-3)


@pytest.mark.slow
def test_the_norm_of_the_rounded_integers_is_within_what_accounting_has():
    """With wide steps, where rounding adds more than the clip; noise is switched off by its key."""
    rule = rules.distributed_dp(CLIP, 1.0, clients=CLIENTS, bits=6)
    _, mechanism = rule.at_clients.build(None, LIKE)
    scale = mechanism.integers.scale
    quiet = _integers(CLIP, scale, mechanism.integers.l2 * scale, 1e-30, 6, CLIENTS, draw_skellam)
    many = np.random.default_rng(1).normal(size=(500, SIZE)).astype(np.float32)
    sent = encoded(quiet, many)
    whole = np.asarray(jax.vmap(lambda p: quiet.summable.integers(p, LIKE))(sent), float)
    norms = np.linalg.norm(whole, axis=1) / scale
    assert norms.max() <= mechanism.integers.l2
    assert norms.max() > 0.9 * mechanism.integers.l2
    assert mechanism.integers.l2 > 1.2 * CLIP
    assert np.abs(whole).sum(axis=1).max() / scale <= mechanism.integers.l1


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["skellam", "discrete_gaussian"])
def test_the_noise_of_the_sum_is_that_of_least_clients(noise):
    """Rejected at 1.05; 6 of 8 answer; one message has a sixth of the variance."""
    rule = rules.distributed_dp(CLIP, 2.0, clients=CLIENTS, least=6, bits=16, noise=noise)
    coder, _ = rule.at_clients.build(None, LIKE)
    adds, number = coder.summable, 800
    zeros = np.zeros((number * 6, SIZE), np.float32)
    sent = encoded(coder, zeros)
    whole = jax.vmap(lambda p: adds.integers(p, LIKE))(sent).reshape(number, 6, -1)
    totals = jax.jit(jax.vmap(lambda x: adds.total(x, LIKE)))(whole.sum(axis=1, dtype=jnp.int32))
    noise = np.concatenate(
        [np.asarray(x, float).reshape(number, -1) for x in jax.tree.leaves(totals)], 1
    )
    squares, count = (noise**2).sum() / (2.0 * CLIP) ** 2, noise.size
    assert abs(squares - count) < 4.9 * np.sqrt(2 * count)
    assert abs(squares / 1.05**2 - count) > 4.9 * np.sqrt(2 * count)
    pairs = np.corrcoef(noise.T)[np.triu_indices(SIZE, 1)] * np.sqrt(number)
    assert np.abs(pairs).max() < 5.8


def test_discrete_gaussian_noise_is_accounted_for_with_all_clients_and_refused_below_half_a_step():
    """As many terms as clients may answer, the variance of as few as must."""
    rule = rules.distributed_dp(CLIP, 2.0, clients=CLIENTS, least=6, noise="discrete_gaussian")
    released = rule.at_clients.build(None, LIKE)[1].integers
    assert isinstance(released, DiscreteGaussian)
    assert (released.entries, released.clients, released.variance) == (SIZE, CLIENTS, 1.0)
    np.testing.assert_allclose(released.deviation, released.scale * np.sqrt(1 / 6))
    narrow = rules.distributed_dp(CLIP, 0.1, clients=CLIENTS, bits=6, noise="discrete_gaussian")
    with pytest.raises(ValueError, match="distributed_dp: bits: expected more, for noise of half"):
        narrow.at_clients.build(None, LIKE)
    with pytest.raises(ValueError, match="distributed_dp: noise: expected"):
        rules.distributed_dp(CLIP, 1.0, clients=CLIENTS, noise="laplace")


@pytest.mark.slow
def test_fewer_clients_than_the_epsilon_counts_on_are_discarded():
    rule = rules.distributed_dp(CLIP, 1e-4, clients=CLIENTS, least=6, bits=20)
    partial, finisher = summed(rule, ROWS, weights=[1, 1, 1, 1, 1, 1, 0, 0])
    expected = clipped(ROWS[:6]).mean(0)
    np.testing.assert_allclose(flat(finisher.finish(partial)), expected, atol=1e-3)
    partial, finisher = summed(rule, ROWS, weights=[1, 1, 1, 1, 1, 0, 0, 0])
    assert not flat(finisher.finish(partial)).any()


@pytest.mark.slow
def test_neighbours_differ_by_what_accounting_has():
    """A client zeroed out, with the noise and rounding of one key: at most l2 and a step."""
    zeroed = ROWS.copy()
    zeroed[3] = 0
    (one, rule), (other, _) = summed(QUIET, ROWS), summed(QUIET, zeroed)
    moved = CLIENTS * np.linalg.norm(flat(rule.finish(one)) - flat(rule.finish(other)))
    l2 = QUIET.at_clients.build(None, LIKE)[1].integers.l2
    assert 0.98 * CLIP < moved < 1.02 * l2


@pytest.mark.slow
def test_the_sum_is_that_of_the_protocol_to_the_last_bit():
    """Masked modulo 2^12, with a client that drops out; entries wrap at the extremes."""
    rule = rules.distributed_dp(CLIP, 1.0, clients=CLIENTS, least=6, bits=12)
    coder, _ = rule.at_clients.build(None, LIKE)
    setup = codec_setup(coder, LIKE, number=bytes(16), degree=6, threshold=4)
    assert setup.width == 12
    sent = encoded(coder, ROWS)
    integers = {
        client: integers_of(coder, jax.tree.map(lambda x, i=client: x[i], sent), LIKE)
        for client in range(CLIENTS)
    }

    def lose(step, direction, client, message):
        return None if (step, direction, client) == ("mask", "up", 7) else message

    got = mean_of(coder, run_round(setup, integers, deliver=lose).sum, LIKE).update
    partial, finisher = summed(rule, ROWS, weights=[1] * 7 + [0])
    np.testing.assert_array_equal(flat(got), flat(finisher.finish(partial)))
    top = jnp.full(SIZE, 2**11 - 1, jnp.int32)
    wrapped = coder.summable.total(top + 1, LIKE)
    lowest = coder.summable.total(-(top + 1), LIKE)
    np.testing.assert_array_equal(flat(wrapped), flat(lowest))


TARGETS = np.random.default_rng(2).normal(size=(CLIENTS, SIZE)).astype(np.float32)
CORPUS = from_arrays({f"client {i}": {"x": TARGETS[i][None]} for i in range(CLIENTS)})
COMPILED = CompiledRounds()


@masked_mean
def loss(params, frozen, rows):
    flat = jnp.concatenate([params["a"].ravel(), params["b"]])
    return 0.5 * ((flat - rows["x"]) ** 2).sum(axis=-1)


def method(rule, **options):
    return fed_avg(loss, LIKE, client_optimizer=optax.sgd(1.0), aggregate=rule, **options)


def run(algorithm, secret=Secret(bytes(range(32))), seed=0, rounds=1, **conditions):
    return list(
        simulate(
            *(algorithm, LIKE, (), CORPUS, Batching(batch=1, steps=1)),
            rounds=rounds,
            clients=CLIENTS,
            seed=seed,
            secret=secret,
            conditions=Conditions(**conditions),
            compiled=COMPILED,
        )
    )


@pytest.mark.slow
def test_a_round_of_clients_with_integer_noise_is_drawn_from_the_secret():
    algorithm = method(rules.distributed_dp(CLIP, 1.0, clients=CLIENTS, least=4))
    (one,), (other,) = run(algorithm), run(algorithm, secret=Secret(bytes(16)))
    assert np.abs(flat(one.state.params) - flat(other.state.params)).max() > 0.02
    noise = CLIENTS * (flat(one.state.params) - clipped(TARGETS).mean(0))
    deviation = CLIP * np.sqrt(CLIENTS / 4)  # more than the least answer
    assert 0.7 < noise.std() / deviation < 1.3
    (gone,) = run(algorithm, faults=faults(dropout=1.0))
    assert not flat(gone.state.params).any()


@pytest.mark.slow
@pytest.mark.parametrize("uplink", [None, "error_feedback(blockwise_int(bits=8, block=32))"])
def test_local_noise_comes_before_the_codec_and_is_of_the_stated_size(uplink):
    """The mean of 8 clients of equal weight, with noise of their own, from the secret."""
    algorithm = method(rules.local_dp(CLIP, 3.0), uplink=uplink and codec(uplink))
    assert (algorithm.mechanism.unit, algorithm.mechanism.relation) == ("client", "replace_one")
    rounds = run(algorithm, rounds=4)
    path = np.array([np.zeros(SIZE), *(flat(each.state.params) for each in rounds)])
    steps = np.diff(path, axis=0)
    pull = np.array([clipped(TARGETS - at).mean(0) for at in path[:-1]])
    squares = ((steps - pull) ** 2).sum() / (3.0 * CLIP / np.sqrt(CLIENTS)) ** 2
    count = steps.size
    assert abs(squares - count) < (4.9 + 2 * bool(uplink)) * np.sqrt(2 * count)
    (other,) = run(algorithm, secret=Secret(bytes(16)))
    assert np.abs(flat(other.state.params) - path[1]).max() > 0.5


def test_any_two_updates_of_a_client_differ_by_at_most_twice_the_clip():
    """With the noise of one key, an infinity and its opposite among them."""
    coder, _ = rules.local_dp(CLIP, 1e-6).at_clients.build(None, LIKE)
    rows = np.stack([ROWS[0], -ROWS[0], 1e30 * ROWS[1], np.inf * ROWS[2], 0 * ROWS[3]])
    encode = jax.jit(lambda row: coder.encode(jax.random.key(0), row, ())[0])
    sent = [flat(encode(jax.tree.map(lambda x, i=i: x[i], tree_of(rows)))) for i in range(5)]
    apart = [np.linalg.norm(one - other) for one in sent for other in sent]
    np.testing.assert_allclose(max(apart), 2 * CLIP, rtol=1e-4)
    assert np.isfinite(sent).all()


def test_the_noise_for_an_epsilon_is_the_exact_one():
    """sigma of the analytic Gaussian mechanism for 2 C, against dp-accounting."""
    z = calibrate_noise_multiplier(3.0, 1, delta=1e-5, relation="replace_one")
    np.testing.assert_allclose(z, 2 * dp.get_sigma_gaussian(3.0, 1e-5), rtol=2e-4)
    account = Account(5.0, delta=1e-5, relation="replace_one")
    expected = dp.get_epsilon_gaussian(2.5 / np.sqrt(7), 1e-5)
    np.testing.assert_allclose(account.epsilon(7), expected, rtol=1e-9)


def test_what_cannot_be_combined_is_refused():
    distributed, local = rules.distributed_dp(1.0, 1.0, clients=8), rules.local_dp(1.0, 1.0)
    with pytest.raises(ValueError, match="distributed_dp: uplink: expected none, as the rule"):
        method(distributed, uplink=eden(bits=1))
    coder, _ = distributed.at_clients.build(None, LIKE)
    with pytest.raises(ValueError, match="distributed_dp: cohort: expected at least 8"):
        distributed.summing(coder, LIKE).rule.empty(LIKE, 7)
    for rule in (distributed, local, rules.dp_fed_avg(1.0, 1.0)):
        with pytest.raises(ValueError, match="local_dp: rule: expected a rule without noise"):
            rules.local_dp(1.0, 1.0, rule)
    with pytest.raises(ValueError, match="rule: expected a rule without noise"):
        rules.norm_bound(1.0, local)
    with pytest.raises(ValueError, match="aggregate: expected a rule whose noise is not at the"):
        gather_updates(lambda state, uplink: uplink, local, LIKE)
    summing = rules.secure_mean()
    with pytest.raises(ValueError, match="local_dp: rule: expected a rule that combines decoded"):
        rules.local_dp(1.0, 1.0, summing)
    noised, _ = local.at_clients.build(fixed_point(clip=1.0), LIKE)
    with pytest.raises(ValueError, match="secure_mean: uplink: expected a codec whose messages"):
        summing.summing(noised, LIKE)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rules.distributed_dp(0, 1, clients=4), "clip: expected a number above 0"),
        (lambda: rules.distributed_dp(1, 0, clients=4), "noise_multiplier: expected"),
        (lambda: rules.distributed_dp(1, 1, clients=4, least=5), "least: expected an integer"),
        (lambda: rules.distributed_dp(1, 1, clients=4, bits=33), "bits: expected an integer"),
        (lambda: rules.distributed_dp(1, 1, clients=99, bits=5), "bits: expected at least 6 for"),
        (lambda: rules.local_dp(1, 0), "local_dp: noise_multiplier: expected"),
        (lambda: rules.local_dp(0, 1), "local_dp: clip: expected"),
    ],
)
def test_numbers_out_of_range_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
