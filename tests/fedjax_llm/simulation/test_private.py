"""Private rounds: noise from a secret alone, the same however clients run and runs resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec, identity

from fedjax_llm import fed_avg
from fedjax_llm.aggregators import adaptive_dp_fed_avg, dp_fed_avg
from fedjax_llm.algorithms.registry import METHODS
from fedjax_llm.attacks import alie, attackable
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.privacy import Secret
from fedjax_llm.simulation import (
    CompiledRounds,
    Conditions,
    Faults,
    Member,
    Snapshot,
    chunked,
    cyclic,
    deadline,
    faults,
    link,
    poisson,
    scan,
    sharded,
    simulate,
    simulate_buffered,
    simulate_together,
    vmap,
    without_replacement,
)

CLIENTS, SIZE, COHORT = 12, 40, 6
PARAMS = {"a": jnp.zeros((4, 5)), "b": jnp.zeros(20)}
SECRET = Secret(bytes(range(32)))
BATCHING = Batching(batch=1, steps=1)
TARGETS = np.random.default_rng(0).normal(size=(CLIENTS, SIZE)).astype(np.float32)
CORPUS = from_arrays({f"client {i:02}": {"x": TARGETS[i][None]} for i in range(CLIENTS)})


@masked_mean
def loss(params, frozen, rows):
    flat = jnp.concatenate([params["a"].ravel(), params["b"]])
    return 0.5 * ((flat - rows["x"]) ** 2).sum(axis=-1)


def method(rule, **options):
    return fed_avg(loss, PARAMS, client_optimizer=optax.sgd(1.0), aggregate=rule, **options)


FIXED = method(dp_fed_avg(clip=0.5, noise_multiplier=2.0))
ADAPTIVE = method(adaptive_dp_fed_avg(0.5, clip=0.5, count_noise=3.0, divisor=COHORT))
PLAIN = method(None)
COMPILED = CompiledRounds()


def run(algorithm=FIXED, *, rounds=2, seed=0, secret=SECRET, sampler=None, **options):
    """The rounds of a run; a client's update leads straight to its target."""
    conditions = options.pop("conditions", Conditions(sampler=sampler))
    return list(
        simulate(
            algorithm,
            PARAMS,
            (),
            CORPUS,
            BATCHING,
            rounds=rounds,
            clients=options.pop("clients", COHORT),
            seed=seed,
            secret=secret,
            conditions=conditions,
            compiled=COMPILED,
            **options,
        )
    )


def flat(params):
    return np.concatenate([np.asarray(params["a"]).ravel(), np.asarray(params["b"])])


def moved(finished):
    return flat(finished.state.params)


def expected_sum(cohort, at, clip):
    """The reference in float64: clipped differences from `at` to the targets, summed."""
    rows = TARGETS[cohort].astype(np.float64) - at
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * np.minimum(1, clip / norms)).sum(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "axes"),
    [(FIXED, (scan(), chunked(5))), (FIXED, (sharded(),)), (ADAPTIVE, (chunked(4),))],
    ids=["fixed", "sharded", "adaptive"],
)
def test_the_noise_is_the_same_for_every_client_axis(algorithm, axes):
    """To rounding of the clients' part; it is drawn once a round and not by chunk or device."""
    wanted = [moved(each) for each in run(algorithm)]
    for axis in axes:
        for got, expected in zip(run(algorithm, client_axis=axis), wanted, strict=True):
            np.testing.assert_allclose(moved(got), expected, atol=3e-6)


@pytest.mark.slow
def test_a_round_moves_by_the_clipped_sum_and_noise_of_the_stated_size():
    """Over 60 rounds' 2,400 entries: chi-square at 1e-6, which 1.15 times the noise fails."""
    at, noise = np.zeros(SIZE), []
    for finished in run(rounds=60):
        after = moved(finished).astype(np.float64)
        noise.append(after - at - expected_sum(finished.clients, at, 0.5) / COHORT)
        at = after
    squares = (np.array(noise) ** 2).sum() / (2.0 * 0.5 / COHORT) ** 2
    count = np.size(noise)
    assert abs(squares - count) < 4.9 * np.sqrt(2 * count)
    assert abs(1.15**2 * squares - count) > 4.9 * np.sqrt(2 * count)
    rounds = np.corrcoef(np.array(noise))[np.triu_indices(60, 1)] * np.sqrt(SIZE)
    assert np.abs(rounds).max() < 5.5  # no two rounds share noise


@pytest.mark.slow
def test_the_noise_depends_on_the_secret_and_not_on_the_seed():
    """Equal secrets and cohorts: equal noise for other seeds of the training keys."""
    everyone = {"clients": CLIENTS, "rounds": 1}
    one, other = run(seed=0, **everyone), run(seed=1, **everyone)
    np.testing.assert_allclose(moved(one[0]), moved(other[0]), atol=1e-6)
    secret = run(seed=0, secret=Secret(bytes(16)), **everyone)
    assert np.abs(moved(one[0]) - moved(secret[0])).max() > 0.05


@pytest.mark.slow
def test_neighbouring_cohorts_differ_by_the_clip_over_the_constant():
    """With the noise of one secret, which cancels: client 3 zeroed out by dropping it."""

    def without_3(key, number, client):
        return faults().draw(key, number, client)._replace(dropped=client == 3)

    everyone = {"clients": CLIENTS, "rounds": 1}
    whole = run(conditions=Conditions(faults()), **everyone)
    zeroed = run(conditions=Conditions(Faults(without_3)), **everyone)
    difference = np.linalg.norm(moved(whole[0]).astype(np.float64) - moved(zeroed[0]))
    np.testing.assert_allclose(difference, 0.5 / CLIENTS, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("uplink", ["eden(bits=1)", "error_feedback(top_k(fraction=0.1))"])
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "aggregate" in m.needs])
def test_methods_with_a_rule_stay_within_the_clip_whatever_their_codec(name, uplink):
    """With a noise of 1e-7: two rounds of all clients move the mean by the clip at most, each."""
    options = {"mu": 0.1} if name in ("fed_prox", "ditto") else {}
    rate = 0.001 if METHODS[name].small_steps else 1.0
    algorithm = METHODS[name].factory(
        loss,
        PARAMS,
        client_optimizer=optax.sgd(rate),
        aggregate=dp_fed_avg(clip=0.01, noise_multiplier=1e-7),
        uplink=codec(uplink),
        **options,
    )
    at = np.zeros(SIZE)
    for finished in run(algorithm, clients=CLIENTS):
        after = moved(finished).astype(np.float64)
        assert 1e-4 < np.linalg.norm(after - at) <= 0.01 * (1 + 1e-4)
        at = after


@pytest.mark.slow
def test_a_round_in_which_nobody_answers_releases_noise():
    (finished,) = run(rounds=1, conditions=Conditions(faults(dropout=1.0)))
    assert int(finished.server_info.accepted) == 0
    squares = (moved(finished) ** 2).sum() / (2.0 * 0.5 / COHORT) ** 2
    assert abs(squares - SIZE) < 4.9 * np.sqrt(2 * SIZE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler", [None, poisson(0.4), cyclic(2)], ids=["none", "poisson", "cyclic"]
)
def test_a_run_resumes_to_the_same_bits_and_no_state_has_the_secret(sampler):
    whole = run(ADAPTIVE, rounds=4, sampler=sampler)
    first = list(run(ADAPTIVE, rounds=2, sampler=sampler))
    snapshot = first[-1].snapshot()
    copied = jax.tree.map(np.array, (snapshot.state, snapshot.store))
    again = run(
        ADAPTIVE,
        rounds=4,
        sampler=sampler,
        start=Snapshot(snapshot.round, *copied, snapshot.seconds),
    )
    np.testing.assert_array_equal(moved(again[-1]), moved(whole[-1]))
    assert again[-1].clients.tolist() == whole[-1].clients.tolist()
    key = np.asarray(jax.random.key_data(SECRET.key("noise", 2)))
    for leaf in jax.tree.leaves(copied):
        raw = np.ascontiguousarray(leaf).tobytes()
        assert key.tobytes() not in raw
        assert bytes(range(8)) not in raw


@pytest.mark.slow
def test_poisson_draws_each_client_with_its_rate_and_pads_what_is_left():
    """Cohorts of every size, from empty ones up, in one compiled program; each as its reference."""
    traces = []

    def counted(params, frozen, batch):
        traces.append(1)
        return loss(params, frozen, batch)

    rule = dp_fed_avg(clip=0.5, noise_multiplier=1e-6, divisor=2.0)
    algorithm = fed_avg(counted, PARAMS, client_optimizer=optax.sgd(1.0), aggregate=rule)
    sizes = []
    for axis in (vmap(), chunked(3)):
        at, before = np.zeros(SIZE), len(traces)
        for finished in run(
            algorithm, rounds=25, sampler=poisson(0.15), clients=CLIENTS, client_axis=axis
        ):
            after = moved(finished).astype(np.float64)
            assert int(finished.server_info.accepted) == len(finished.clients)
            expected = expected_sum(finished.clients, at, 0.5) / 2.0
            np.testing.assert_allclose(after - at, expected, atol=1e-5)
            assert len(finished.messages) == 2 * len(finished.clients)
            at = after
            sizes.append(len(finished.clients))
        compiled = len(traces) - before
        assert compiled < 25, "a round was traced again"
    assert min(sizes) == 0
    assert max(sizes) >= 4


def test_a_sampler_reads_the_secret_where_there_is_one_and_the_seed_where_there_is_none():
    sampler = without_replacement()

    def cohorts(**options):
        return [each.clients.tolist() for each in run(rounds=3, sampler=sampler, **options)]

    assert cohorts(seed=0) == cohorts(seed=1)
    assert cohorts() != cohorts(secret=Secret(bytes(16)))
    public = {"algorithm": PLAIN, "secret": None}
    assert cohorts(seed=0, **public) == cohorts(seed=0, **public)
    assert cohorts(seed=0, **public) != cohorts(seed=1, **public)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"secret": None}, "secret: expected a Secret"),
        ({"algorithm": PLAIN}, "secret: expected None, as the algorithm adds no noise"),
        (
            {"sampler": poisson(0.5)},
            "algorithm: expected a rule with a divisor, such as 6, the clients that a round",
        ),
        (
            {"conditions": Conditions(None, link(uplink=1e6, downlink=1e6), deadline(first=2))},
            "conditions.deadline: expected None with noise",
        ),
        (
            {
                "algorithm": method(
                    dp_fed_avg(clip=1.0, noise_multiplier=1.0), uplink=attackable(identity())
                ),
                "conditions": Conditions(attack=alie(fraction=0.3)),
            },
            "conditions.attack: expected an attack that reads no other client's update",
        ),
        ({"sampler": cyclic(3)}, "cyclic: clients: expected at most 4"),
        (
            {
                "conditions": Conditions(
                    None,
                    link(uplink=1e6, downlink=1e6),
                    deadline(first=2),
                    sampler=without_replacement(),
                )
            },
            "conditions.deadline: expected None with a sampler",
        ),
    ],
)
def test_what_would_undo_the_privacy_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        run(**options)


def test_loops_without_a_secret_refuse_an_algorithm_with_noise():
    with pytest.raises(ValueError, match="simulate_together: algorithm: expected one without"):
        list(
            simulate_together(
                lambda _: FIXED, [Member(PARAMS, (), CORPUS, 0)], BATCHING, rounds=1, clients=2
            )
        )
    with pytest.raises(ValueError, match="simulate_buffered: algorithm: expected one without"):
        list(
            simulate_buffered(
                *(FIXED, PARAMS, (), CORPUS, BATCHING),
                rounds=1,
                clients=2,
                buffer=1,
                seed=0,
                conditions=Conditions(network=link(uplink=1e6, downlink=1e6, step=1.0)),
            )
        )
