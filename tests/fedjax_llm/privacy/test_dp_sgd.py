"""DP-SGD at clients: what a row can move, the noise, and who gets it, against float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fedjax_llm import fed_avg
from fedjax_llm.aggregators import dp_fed_avg
from fedjax_llm.algorithms import fed_prox
from fedjax_llm.algorithms.registry import METHODS
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batching, cohort_batches, from_arrays, masked_mean
from fedjax_llm.data.arrays import ArrayBatch
from fedjax_llm.data.batches import rows_at_rate
from fedjax_llm.privacy import Secret, dp_sgd, releases_of_row
from fedjax_llm.privacy.dp_sgd import KeyedBatches
from fedjax_llm.simulation import CompiledRounds, chunked, simulate
from tests.helpers import dense_task, low_rank_task

SIZE, CLIP, Z, ROWS = 14, 0.7, 1.3, 6
PARAMS = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(5), "c": jnp.zeros(5)}
SECRET = Secret(bytes(range(32)))


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@masked_mean
def loss(params, frozen, x):
    """Half a squared distance for each row: its gradient is the parameters minus the row."""
    w = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    return 0.5 * ((w - x) ** 2).sum(axis=-1)


def private(**options):
    return dp_sgd(loss, **{"clip": CLIP, "noise_multiplier": Z} | options)


def batch(rows, counted=None):
    return ArrayBatch(jnp.asarray(rows), jnp.ones(len(rows), bool) if counted is None else counted)


def clipped_sum(rows, at=0.0):
    gradients = at - np.asarray(rows, np.float64)
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return (gradients * np.minimum(1, CLIP / np.maximum(norms, 1e-300))).sum(0)


@functools.cache
def compiled(**options):
    return jax.jit(private(**options).value_and_gradient)


def gradient(rows, counted=None, **options):
    found = compiled(**options)(jax.random.key(0), PARAMS, (), batch(rows, counted))
    return flat(found[1])


DATA = np.random.default_rng(0).normal(size=(ROWS, SIZE)).astype(np.float32)
DATA[1] *= 0.05  # within the clip
QUIET = {"noise_multiplier": 1e-7}


@pytest.mark.parametrize("microbatch", [None, 1, 2])
def test_the_gradient_is_the_sum_of_clipped_rows_over_a_constant(microbatch):
    """Also with rows that count nothing, and with one whose gradient is not finite."""
    counted = jnp.array([True, True, True, False, True, True])
    rows = DATA.copy()
    rows[3] = np.nan
    rows[4] = np.inf
    expected = clipped_sum(DATA[[0, 1, 2, 5]])
    got = gradient(rows, counted, microbatch=microbatch, **QUIET)
    np.testing.assert_allclose(got, expected / ROWS, atol=1e-6)
    by_hand = gradient(rows, counted, microbatch=microbatch, divisor=2.5, **QUIET)
    np.testing.assert_allclose(by_hand, expected / 2.5, atol=1e-6)


def test_one_row_moves_the_sum_by_the_clip_and_replaced_by_twice_that():
    for scale in (1e-3, 1.0, 1e15):
        one, other, without = DATA.copy(), DATA.copy(), DATA.copy()
        one[2], other[2] = scale * DATA[2], -scale * DATA[2]
        kept = jnp.arange(ROWS) != 2
        moved = [
            np.linalg.norm(gradient(one, divisor=1, **QUIET) - gradient(*less, divisor=1, **QUIET))
            for less in ((without, kept), (other, None))
        ]
        bounds = CLIP * np.array([1, 2]) * (1 + 1e-5)
        assert (moved <= bounds).all()
        if scale >= 1:
            assert (moved >= bounds * (1 - 1e-4)).all()


def is_the_noise(noise, deviation):
    """As for the rules with noise: chi-square and correlations, at 1e-6 each."""
    count, entries = noise.shape
    p = stats.chi2.cdf((noise**2).sum() / deviation**2, count * entries)
    correlation = np.corrcoef(noise.T)[np.triu_indices(entries, 1)] * np.sqrt(count)
    bound = stats.norm.isf(1e-6 / 2 / len(correlation))
    return 5e-7 < p < 1 - 5e-7 and np.abs(correlation).max() < bound


@pytest.mark.slow
def test_the_noise_of_a_step_is_that_of_the_definition():
    """Independent in all entries, and rejected if it were 1.05 of what it is."""
    draws = jax.jit(
        jax.vmap(lambda key: private().value_and_gradient(key, PARAMS, (), batch(DATA))[1])
    )(jax.random.split(jax.random.key(3), 4000))
    noise = np.concatenate(
        [np.asarray(leaf, np.float64).reshape(4000, -1) for leaf in jax.tree.leaves(draws)], axis=1
    )
    noise -= clipped_sum(DATA) / ROWS
    assert is_the_noise(noise, Z * CLIP / ROWS)
    for wrong in (1.05, 1 / 1.05, 1 / ROWS, np.sqrt(ROWS)):
        assert not is_the_noise(noise, wrong * Z * CLIP / ROWS), wrong
    assert not is_the_noise(1e-3 * noise, Z * CLIP / ROWS)


CLIENTS, STEPS, BATCH = 3, 4, 3
CORPUS = from_arrays(
    {
        f"client {i}": np.random.default_rng(i).normal(size=(12, SIZE)).astype(np.float32)
        for i in range(CLIENTS)
    }
)
BATCHING = Batching(batch=BATCH, steps=STEPS)
COMPILED = CompiledRounds()


def method(noise, rate=0.1, **options):
    return fed_avg(
        private(noise_multiplier=noise, **options), PARAMS, client_optimizer=optax.sgd(rate)
    )


def run(algorithm, rounds=1, seed=0, secret=SECRET, clients=CLIENTS, **options):
    return list(
        simulate(
            algorithm,
            PARAMS,
            (),
            options.pop("corpus", CORPUS),
            options.pop("batching", BATCHING),
            rounds=rounds,
            clients=clients,
            seed=seed,
            secret=secret,
            compiled=COMPILED,
            **options,
        )
    )


def moved(finished):
    return flat(finished.state.params)


QUIET_METHOD, LOUD_METHOD = method(1e-7), method(5.0)


@pytest.mark.slow
def test_a_round_is_that_of_its_reference():
    """Clipped SGD in float64 on the batches of each client, and the mean over clients."""
    (finished,) = run(QUIET_METHOD)
    keys = jax.random.fold_in(jax.random.key(0), 1)
    from fedjax_llm.simulation.loop.cohorts import data_keys  # noqa: PLC0415

    batches = cohort_batches(
        CORPUS, BATCHING, range(CLIENTS), data_keys(keys, np.arange(CLIENTS, dtype=np.int32))
    )
    trained = []
    for of_client in batches.data:
        w = np.zeros(SIZE)
        for rows in of_client:
            w = w - 0.1 * clipped_sum(rows, w) / BATCH
        trained.append(w)
    np.testing.assert_allclose(moved(finished), np.mean(trained, axis=0), atol=1e-6)


@pytest.mark.slow
def test_clients_steps_and_rounds_have_noise_of_their_own_from_the_secret():
    """The rows' pull is small beside noise 5: the variance of a mean of sums of steps."""
    rounds = run(LOUD_METHOD, rounds=40)
    path = np.array([np.zeros(SIZE), *map(moved, rounds)])
    noise = path[1:] - path[:-1] - (moved(run(QUIET_METHOD)[0]))
    deviation = 0.1 * 5.0 * CLIP / BATCH * np.sqrt(STEPS / CLIENTS)
    squares = (noise**2).sum() / deviation**2
    assert abs(squares - noise.size) < 0.3 * noise.size  # of one key in all steps it is 4 times
    again = run(LOUD_METHOD, seed=0)
    np.testing.assert_array_equal(moved(again[0]), path[1])
    other = run(LOUD_METHOD, secret=Secret(bytes(16)))
    assert np.abs(moved(other[0]) - path[1]).max() > deviation / 2
    by_chunks = run(LOUD_METHOD, client_axis=chunked(2))
    np.testing.assert_allclose(moved(by_chunks[0]), path[1], atol=1e-6)


def test_rows_at_a_rate_are_independent_and_cut_to_the_room():
    count, steps = 40, 500
    numbers, drawn = rows_at_rate(count, steps, count, 0.1, np.array([3, 4], np.uint32))
    table = np.zeros((steps, count), int)
    for step, (row, inside) in enumerate(
        zip(numbers.reshape(steps, -1), drawn.reshape(steps, -1), strict=True)
    ):
        np.add.at(table[step], row[inside], 1)
    assert table.max() == 1  # no row twice in a step
    hits = table.sum()
    assert abs(hits - 2000) < 4.9 * np.sqrt(2000 * 0.9)
    sizes = table.sum(axis=1)
    expected = stats.binom(count, 0.1)
    assert abs(sizes.var() - expected.var()) < 1.2
    few, inside = rows_at_rate(count, steps, 4, 0.1, np.array([3, 4], np.uint32))
    kept = inside.reshape(steps, 4).sum(axis=1)
    np.testing.assert_array_equal(kept, np.minimum(sizes, 4))
    assert len(set(few[inside].tolist())) == count


@pytest.mark.slow
def test_steps_without_a_row_release_noise_where_rows_are_drawn():
    """And rounds draw rows from the secret, whatever the seed."""
    algorithm = fed_avg(
        private(noise_multiplier=2.0, rate=1e-9), PARAMS, client_optimizer=optax.sgd(1.0)
    )
    assert algorithm.mechanism.rate == 1e-9
    noise = np.array([moved(each) for each in run(algorithm, rounds=30)])
    noise = np.diff(noise, axis=0, prepend=0)
    deviation = 2.0 * CLIP / BATCH * np.sqrt(STEPS / CLIENTS)
    squares = (noise**2).sum() / deviation**2
    assert abs(squares - noise.size) < 4.9 * np.sqrt(2 * noise.size)
    often = fed_avg(private(rate=0.5, **QUIET), PARAMS, client_optimizer=optax.sgd(0.1))
    one, other = run(often, seed=0), run(often, seed=1)
    np.testing.assert_allclose(moved(one[0]), moved(other[0]), atol=1e-6)
    secret = run(often, secret=Secret(bytes(16)))
    assert np.abs(moved(one[0]) - moved(secret[0])).max() > 1e-3


def test_releases_of_a_row_are_the_most_of_all_orders():
    """By all orders of a few rows; the bound is reached."""
    for rows, size, steps in itertools.product((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 4)):
        drawn = rows * steps if steps == 4 else size * steps
        passes = -(-drawn // rows)
        places = itertools.product(range(rows), repeat=passes)
        most = 0
        for place in places:
            at = [number * rows + p for number, p in enumerate(place)]
            seen = np.bincount([a // size for a in at if a < drawn] or [0], minlength=1)
            most = max(most, (seen**2).sum() if any(a < drawn for a in at) else 0)
        assert releases_of_row(rows, size, drawn) == most, (rows, size, steps)


def test_releases_bound_what_the_batches_of_a_client_do():
    for rows, size, steps in ((7, 4, 5), (5, 8, 3), (12, 3, 4)):
        data = from_arrays({"ann": np.arange(rows, dtype=np.float32)[:, None]})
        worst = 0
        for seed in range(60):
            keys = np.array([[0, seed]], np.uint32)
            taken = cohort_batches(data, Batching(batch=size, steps=steps), [0], keys)
            table = np.array(
                [np.bincount(x[:, 0].astype(int), minlength=rows) for x in taken.data[0]]
            )
            worst = max(worst, (table**2).sum(axis=0).max())
        assert worst <= releases_of_row(rows, size, steps * size)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].split])
def test_a_method_adds_the_noise_or_refuses_the_loss(name):
    """None computes anything else of the data in silence."""
    task = dense_task if name in dense_task.TABLE else low_rank_task
    table = task.TABLE
    taken = {"fed_avg", "fed_prox", "fed_exp", "diloco", "sparse_loco", "muloco", "flasc"}
    noised = dp_sgd(task.loss, clip=1.0, noise_multiplier=1.0)

    def built():
        with jax.ensure_compile_time_eval():  # a factory reads numbers of its optimizer
            return table[name](noised)

    def a_round(key):
        algorithm = built()
        state = algorithm.init(key, task.PARAMS)
        down, _ = algorithm.broadcast(key, state)
        own = algorithm.client_init(task.PARAMS)
        batches = jax.tree.map(lambda leaf: leaf[0], task.cohort())
        sent, own, _ = algorithm.client_update(key, task.FROZEN, down, own, batches)
        assert algorithm.mechanism.unit == "row"
        uplinks = jax.tree.map(lambda leaf: leaf[None], sent)
        partial = algorithm.gather.add(
            state, algorithm.gather.empty(state, 1), uplinks, jnp.ones(1)
        )
        return algorithm.server_update(key, state, partial)[0]

    if name in taken:
        jax.eval_shape(a_round, jax.random.key(0))
        return
    with pytest.raises(ValueError, match="loss: expected"):
        jax.eval_shape(a_round, jax.random.key(0))


def test_what_cannot_have_the_noise_is_refused():
    with pytest.raises(ValueError, match="dp_sgd: loss: expected a method that gives local steps"):
        local_steps(private(), optax.sgd(1.0))(PARAMS, (), batch(DATA[None]))
    rule = dp_fed_avg(clip=1.0, noise_multiplier=1.0)
    with pytest.raises(ValueError, match="fed_prox: noise: expected noise in one place"):
        fed_prox(private(), PARAMS, client_optimizer=optax.sgd(1.0), aggregate=rule)
    with pytest.raises(ValueError, match="microbatch: expected a divisor of the batch of 6 rows"):
        gradient(DATA, microbatch=4)
    with pytest.raises(ValueError, match="simulate: secret: expected a Secret"):
        run(method(1.0), secret=None)
    drawn = fed_avg(private(rate=0.5), PARAMS, client_optimizer=optax.sgd(1.0))
    with pytest.raises(ValueError, match="simulate: batching: expected steps, as rows drawn"):
        run(drawn, batching=Batching(batch=2, epochs=1))
    assert KeyedBatches(batch(DATA), jax.random.key(0)).mask.all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"clip": 0}, "clip: expected a number above 0"),
        ({"noise_multiplier": 0}, "noise_multiplier: expected a number above 0"),
        ({"divisor": -1}, "divisor: expected a number above 0"),
        ({"microbatch": 0}, "microbatch: expected an integer"),
        ({"rate": 1.5}, "rate: expected a number above 0 and at most 1"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, said):
    with pytest.raises(ValueError, match=f"dp_sgd: {said}"):
        private(**arguments)
