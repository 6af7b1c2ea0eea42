"""What malicious clients send, against float64 references and through whole rounds."""

import itertools
from statistics import NormalDist

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, identity

from fedjax_llm import aggregators as rules
from fedjax_llm import attacks, fed_avg, simulate, total_bytes
from fedjax_llm.algorithms import scaffold
from fedjax_llm.attacks import attackable
from fedjax_llm.attacks.alie import largest_shift
from fedjax_llm.attacks.registry import ATTACKS
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.data.tokenisation.labelled import LabelledBatch
from fedjax_llm.simulation import Conditions, chunked, faults, scan, sharded, vmap

CLIENTS, SIZE = 11, 6
OPTIMA = 1 + np.random.default_rng(0).uniform(-0.3, 0.3, size=(CLIENTS, 1, SIZE)).astype("f4")
CORPUS = from_arrays({f"client {i:02}": optimum for i, optimum in enumerate(OPTIMA)})
LIKE = jnp.zeros(SIZE)
LOSS = masked_mean(lambda w, frozen, optimum: 0.5 * ((w - optimum) ** 2).sum(-1))
ROWS = np.random.default_rng(1).normal(size=(8, 5))
HONEST = np.array([True, True, False, True, True, True, False, True])


def played(
    attack,
    *,
    rule=None,
    uplink=None,
    rounds=1,
    axis=None,
    start=None,
    clients=CLIENTS,
    corpus=CORPUS,
    **k,
):
    """Rounds of a quadratic: one step of rate 1, so that an honest update is optimum - w."""
    algorithm = fed_avg(
        LOSS,
        LIKE,
        client_optimizer=optax.sgd(1.0),
        aggregate=rule or rules.mean(),
        uplink=attackable(uplink or identity(), informed=bool(attack) and attack.informed),
    )
    return list(
        simulate(
            algorithm,
            LIKE,
            (),
            corpus,
            Batching(batch=1, steps=1),
            rounds=rounds,
            clients=clients,
            seed=0,
            client_axis=axis,
            start=start,
            conditions=Conditions(attack=attack, **k),
        )
    )


def crafted(attack, rows=ROWS, honest=HONEST):
    out = jax.jit(attack.craft)(
        jr.key(0),
        {"a": jnp.asarray(rows[:, :2], jnp.float32), "b": jnp.asarray(rows[:, 2:], jnp.float32)},
        jnp.asarray(honest),
        jnp.asarray(~honest),
    )
    return np.concatenate([out["a"], out["b"]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [
        (50, 5, 0.08365),
        (50, 10, 0.25335),
        (50, 12, 0.33604),
        (50, 24, 1.42608),
        (100, 20, 0.28584),
        (10, 2, 0.0),
    ],
)
def test_alie_moves_by_the_inverse_of_the_normal_distribution(n, m, expected):
    supporters = n // 2 + 1 - m
    assert NormalDist().inv_cdf((n - m - supporters) / (n - m)) == pytest.approx(expected, abs=1e-5)
    assert largest_shift(jnp.int32(n - m), jnp.int32(m)) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("n", "m"), [(50, 1), (5, 3), (2, 1), (3, 3)])
def test_alie_stays_finite_with_very_few_and_with_a_majority(n, m):
    shift = float(largest_shift(jnp.int32(n - m), jnp.int32(m)))
    assert 0 <= shift < 10


def test_alie_and_ipm_are_their_definitions():
    good = ROWS[HONEST]
    shift = NormalDist().inv_cdf((8 - 2 - (8 // 2 + 1 - 2)) / (8 - 2))
    expected = good.mean(0) - max(shift, 0) * good.std(0)
    np.testing.assert_allclose(crafted(attacks.alie(0.2)), expected, atol=1e-6)
    expected = good.mean(0) - 1.5 * good.std(0)
    np.testing.assert_allclose(crafted(attacks.alie(0.2, z=1.5)), expected, atol=1e-6)
    np.testing.assert_allclose(crafted(attacks.ipm(0.2)), -0.1 * good.mean(0), atol=1e-6)


def searched(good, p, holds):
    """The authors' search for gamma: halving steps from 10, to 1e-5."""
    gamma, step, best = 10.0, 10.0, 0.0
    while abs(best - gamma) > 1e-5:
        if holds(good.mean(0) + gamma * p):
            best, gamma = gamma, gamma + step / 2
        else:
            gamma -= step / 2
        step /= 2
    return good.mean(0) + best * p


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["std", "sign", "unit"])
def test_min_max_and_min_sum_find_what_the_authors_search_finds(direction):
    good = ROWS[HONEST]
    mean = good.mean(0)
    p = {"std": -good.std(0), "sign": -np.sign(mean), "unit": -mean / np.linalg.norm(mean)}[
        direction
    ]
    between = ((good[:, None] - good[None]) ** 2).sum(-1)

    def within(x):
        return ((x - good) ** 2).sum(1).max() <= between.max()

    def in_sum(x):
        return ((x - good) ** 2).sum() <= between.sum(1).min()

    for attack, holds in ((attacks.min_max, within), (attacks.min_sum, in_sum)):
        got = crafted(attack(0.2, direction))
        np.testing.assert_allclose(got, searched(good, p, holds), atol=5e-5)
        assert np.linalg.norm(got - mean) > 0.1


def test_min_max_of_equal_updates_is_that_update():
    same = np.repeat(ROWS[:1], 8, axis=0)
    np.testing.assert_allclose(crafted(attacks.min_max(0.2), same), ROWS[0], atol=1e-6)
    np.testing.assert_allclose(crafted(attacks.min_sum(0.2), same), ROWS[0], atol=1e-6)


def test_mimic_copies_the_honest_client_furthest_along_the_top_direction():
    good = ROWS[HONEST]
    centred = good - good.mean(0)
    top = np.linalg.svd(centred)[2][0]
    expected = good[np.argmax(np.abs(centred @ top))]
    np.testing.assert_allclose(crafted(attacks.mimic(0.2)), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [attacks.alie, attacks.ipm, attacks.min_max, attacks.min_sum, attacks.mimic]
)
def test_no_omniscient_attack_reads_the_malicious_rows_or_needs_an_honest_one(make):
    changed = np.where(HONEST[:, None], ROWS, 1e9)
    np.testing.assert_allclose(crafted(make(0.2), changed), crafted(make(0.2)), atol=1e-6)
    assert np.isfinite(crafted(make(0.2), honest=np.zeros(8, bool))).all()


@pytest.mark.slow
def test_token_flip_flips_labels_too_and_refuses_data_without_targets():
    one = np.ones((1, 2), bool)
    batch = LabelledBatch(one.astype("i4"), one, np.array([0, 2], "i4"), one[0])
    flipped = attacks.token_flip(0.2, values=3).batches(jr.key(0), batch)
    assert flipped.labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match="token_flip: batches: expected data with targets or lab"):
        played(attacks.token_flip(0.2, values=256))


@pytest.mark.slow
def test_neurotoxin_leaves_out_the_coordinates_of_the_last_update_that_are_largest():
    rng = np.random.default_rng(0)
    own, last = rng.normal(size=(2, 40))
    last[rng.permutation(40)[:20]] = 0
    cut = [10, 25]
    trees = [dict(enumerate(map(jnp.float32, np.split(each, cut)))) for each in (own, last)]
    for top, k in ((0.001, 1), (0.1, 4), (0.2, 8), (0.9, 20)):  # a zero is never left out
        attack = attacks.neurotoxin(attacks.scaling(0.1, 3), top=top)
        got = attack.of(attacks.Known(last=trees[1])).update(jr.key(0), trees[0])
        expected = 3 * own
        expected[np.argsort(-np.abs(last))[:k]] = 0
        np.testing.assert_allclose(np.concatenate(list(got.values())), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), chunked(3)], ids=["vmap", "chunked"])
def test_neurotoxin_knows_the_last_rounds_update_from_the_downlink(axis):
    """Coordinates of the first update are 1, 2, ..., 6: no rounding to 4 bits reorders them."""
    steps = np.arange(1, SIZE + 1, dtype="f4")
    corpus = from_arrays({f"client {i:02}": o * steps for i, o in enumerate(OPTIMA)})
    own = OPTIMA[:, 0] * steps.astype(float)
    first, second = played(
        attacks.neurotoxin(attacks.scaling(0.3, -2.0), top=0.34), rounds=2, axis=axis, corpus=corpus
    )
    bad = first.malicious[:, None]
    one = np.where(bad, -2 * own, own).mean(0)
    np.testing.assert_allclose(first.state.params, one, atol=1e-5)
    left = np.argsort(-np.abs(one))[:2]
    sent = -2 * (own - one)
    sent[:, left] = 0
    np.testing.assert_allclose(
        second.state.params, one + np.where(bad, sent, own - one).mean(0), atol=1e-5
    )
    plain = played(attacks.scaling(0.3, -2.0))[0]
    assert total_bytes(first.messages, "down") > total_bytes(plain.messages, "down")
    assert total_bytes(first.messages, "up") == total_bytes(plain.messages, "up")


@pytest.mark.slow
def test_sybils_send_one_update_each_with_its_own_noise():
    own = OPTIMA[:, 0].astype(float)
    seen = []
    watching = rules.stacked()

    def finish(stack):
        jax.debug.callback(lambda rows: seen.append(np.asarray(rows)), stack.rows, ordered=True)
        return jnp.zeros(SIZE)

    for std in (0.0, 0.5):
        rule = watching._replace(finish=finish)
        (r,) = played(attacks.sybils(attacks.scaling(0.3, -2), std=std), rule=rule)
        jax.effects_barrier()
        rows, bad = seen.pop(), r.malicious
        np.testing.assert_allclose(rows[~bad], own[~bad], atol=1e-6)
        noise = rows[bad] + 2 * own[bad].mean(0)
        if std:
            assert 0.25 < noise.std() < 1.0  # of 18 entries
            assert np.abs(noise[0] - noise[1]).min() > 1e-4
        else:
            np.testing.assert_allclose(noise, 0, atol=1e-6)


@pytest.mark.slow
def test_fools_gold_weighs_sybils_down_and_the_mean_does_not():
    """Honest clients pull in different directions; three Sybils push in one, away from them."""
    rng = np.random.default_rng(2)
    corpus = from_arrays({f"client {i:02}": rng.normal(size=(1, SIZE)) for i in range(CLIENTS)})
    attack, away = attacks.sybils(attacks.scaling(0.3, 20), std=0.01), {}
    for name, rule in (("mean", rules.mean()), ("fools_gold", rules.fools_gold())):
        (r,) = played(attack, rule=rule, corpus=corpus)
        away[name] = np.linalg.norm(r.state.params)
    assert away["fools_gold"] < 1.5, away
    assert away["mean"] > 5, away


SENT = {
    "sign_flip": (attacks.sign_flip, lambda own, good, bad: -own),
    "scaling": (lambda f: attacks.scaling(f, 3), lambda own, good, bad: 3 * own),
    "free_rider": (attacks.free_rider, lambda own, good, bad: 0 * own),
    "neurotoxin": (  # in the first round
        lambda f: attacks.neurotoxin(attacks.scaling(f, 3)),
        lambda own, good, bad: 3 * own,
    ),
    "sybils": (
        lambda f: attacks.sybils(attacks.sign_flip(f)),
        lambda own, good, bad: -bad.mean(0) + 0 * own,
    ),
    "ipm": (lambda f: attacks.ipm(f, 0.5), lambda own, good, bad: -0.5 * good.mean(0)),
    "alie": (
        lambda f: attacks.alie(f, z=2.0),
        lambda own, good, bad: good.mean(0) - 2 * good.std(0),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), scan(), chunked(3)], ids=["vmap", "scan", "chunked"])
@pytest.mark.parametrize("name", SENT)
def test_a_round_has_the_drawn_share_of_clients_that_send_what_the_attack_says(name, axis):
    make, sent = SENT[name]
    (r,) = played(make(0.3), axis=axis)
    bad = r.malicious
    assert bad.sum() == 3  # of 11, by rounding
    own = OPTIMA[:, 0].astype(float)
    updates = np.where(bad[:, None], sent(own, own[~bad], own[bad]), own)
    np.testing.assert_allclose(r.state.params, updates.mean(0), atol=1e-6)
    assert total_bytes(r.messages, "up") == CLIENTS * (12 + 4 * SIZE)


@pytest.mark.slow
def test_gaussian_clients_send_noise_of_their_own_in_each_round():
    first, second = played(attacks.gaussian(0.1, std=5.0), rounds=2)
    again = played(attacks.gaussian(0.1, std=5.0))[0]
    np.testing.assert_array_equal(first.state.params, again.state.params)
    (bad,) = np.flatnonzero(first.malicious)
    honest = np.delete(OPTIMA[:, 0], bad, axis=0).sum(0)
    noise = CLIENTS * np.asarray(first.state.params) - honest
    assert 0.5 < noise.std() < 12
    later = np.asarray(second.state.params - first.state.params) * CLIENTS
    later -= honest - 10 * np.asarray(first.state.params)
    assert not np.allclose(noise, later, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alie", "sign_flip"])
def test_the_malicious_clients_are_the_same_in_every_round_and_after_a_resume(name):
    attack = SENT[name][0](0.3)
    whole = played(attack, rounds=3, clients=6, uplink=codec("error_feedback(top_k(fraction=0.5))"))
    bad = {c for r in whole for c in r.clients[r.malicious].tolist()}
    good = {c for r in whole for c in r.clients[~r.malicious].tolist()}
    assert bad
    assert not bad & good
    other = played(attack, rounds=1, clients=6, uplink=codec("error_feedback(top_k(fraction=0.5))"))
    start = other[0].snapshot()
    rest = played(
        attack,
        rounds=3,
        clients=6,
        uplink=codec("error_feedback(top_k(fraction=0.5))"),
        start=start,
    )
    np.testing.assert_array_equal(rest[-1].state.params, whole[-1].state.params)


@pytest.mark.slow
def test_crafted_updates_pass_through_the_clients_codec_and_its_bytes_are_made():
    """Sign with one scale: what a malicious client sends has one magnitude, as all others have."""
    (r,) = played(attacks.alie(0.3, z=100.0), uplink=codec("sign()"), axis=chunked(4))
    one_bit = {e.payload_bytes for e in r.messages if e.direction == "up"}
    (honest,) = played(None, uplink=codec("sign()"))
    assert one_bit == {e.payload_bytes for e in honest.messages if e.direction == "up"}
    own = np.abs(OPTIMA[:, 0]).mean(1)  # the decoded magnitude of an honest update
    good = own[~r.malicious]
    alie = good.mean() - 100 * good.std()
    expected = (good.sum() + 3 * alie) / CLIENTS
    np.testing.assert_allclose(r.state.params, expected, rtol=1e-4)


def test_an_attack_without_a_malicious_client_in_the_cohort_changes_nothing():
    rounds = played(attacks.alie(0.1), rounds=6, clients=2)
    assert not all(r.malicious.any() for r in rounds)
    for before, r in itertools.pairwise(rounds):
        if not r.malicious.any():
            np.testing.assert_allclose(r.state.params, OPTIMA[r.clients, 0].mean(0), atol=1e-6)
            assert before is not r


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alie", "sign_flip"])
def test_clients_that_fail_or_drop_out_are_neither_read_nor_replaced(name):
    make, sent = SENT[name]
    gone = faults(dropout=0.2, failure=0.2)
    (r,) = played(make(0.3), faults=gone)
    answers = r.plan.answers & ~r.plan.failed
    bad = r.malicious
    assert (answers & bad).any()
    assert not answers.all()
    own = OPTIMA[:, 0].astype(float)
    updates = np.where(bad[:, None], sent(own, own[~bad & answers], own[bad]), own)[answers]
    np.testing.assert_allclose(r.state.params, updates.mean(0), atol=1e-6)


@pytest.mark.slow
def test_a_method_with_two_codecs_is_attacked_in_both():
    def run(attack):
        algorithm = scaffold(
            LOSS,
            LIKE,
            client_optimizer=optax.sgd(0.5),
            population=float(CLIENTS),
            uplink=attackable(identity()),
        )
        (r,) = simulate(
            algorithm,
            LIKE,
            (),
            CORPUS,
            Batching(batch=1, steps=1),
            rounds=1,
            clients=CLIENTS,
            seed=0,
            conditions=Conditions(attack=attack),
        )
        return r

    honest, flipped, alie = run(None), run(attacks.sign_flip(0.3)), run(attacks.alie(0.3, z=0.0))
    assert not np.allclose(honest.state.control, flipped.state.control)
    good = OPTIMA[:, 0][~alie.malicious]
    np.testing.assert_allclose(alie.state.params, 0.5 * good.mean(0), atol=1e-6)
    np.testing.assert_allclose(alie.state.control, -good.mean(0), atol=1e-6)


ROBUST = {
    "median": rules.median(),
    "trimmed_mean": rules.trimmed_mean(2),
    "krum": rules.krum(2),
    "multi_krum": rules.multi_krum(2),
    "bulyan": rules.bulyan(2),
    "rfa": rules.rfa(),
    "centered_clipping": rules.centered_clipping(1.0),
    "bucketing": rules.bucketing(rules.median()),
    "nearest_neighbor_mixing": rules.nearest_neighbor_mixing(rules.median(), 2),
    "flame": rules.flame(0.0),
    "norm_bound": rules.norm_bound(1.0),
    "sign_majority": rules.sign_majority(0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROBUST)
def test_training_stays_near_the_optimum_with_clients_at_infinity(name):
    """Two of eleven clients send -1e20 times their update; the honest optima are around 1."""
    rounds = played(attacks.scaling(0.2, -1e20), rule=ROBUST[name], rounds=12)
    away = np.abs(np.asarray(rounds[-1].state.params) - 1).max()
    assert away < {"norm_bound": 0.7, "centered_clipping": 0.7}.get(name, 0.45), away


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "holds"), [(attacks.ipm(0.2, 1e20), True), (attacks.scaling(0.2, -1e20), False)]
)
def test_dnc_leaves_out_clients_that_send_one_thing_and_not_those_that_hide_each_other(
    attack, holds
):
    rounds = played(attack, rule=rules.dnc(2), rounds=12)
    away = np.abs(np.asarray(rounds[-1].state.params) - 1).max()
    assert (away < 0.45) == holds


def test_the_mean_does_not():
    (r,) = played(attacks.scaling(0.2, -1e20))
    assert np.abs(np.asarray(r.state.params)).max() > 1e18


def test_every_registered_attack_is_tested():
    tested = {*SENT, "min_max", "min_sum", "mimic", "gaussian", "token_flip"}
    tested |= {"backdoor", "distributed_backdoor", "unsafe_instructions"}  # in files of their own
    assert set(ATTACKS) == tested


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attacks.alie(0), "alie: fraction: expected a number above 0 and below 1, got 0"),
        (lambda: attacks.min_max(0.1, "up"), "direction: expected std, sign or unit, got 'up'"),
        (lambda: played(attacks.alie(0.01)), "attack.fraction: expected the share of at least one"),
        (
            lambda: played(attacks.alie(0.2), axis=sharded()),
            "simulate: client_axis: expected vmap.., scan.. or chunked.size., as the attack reads",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("uplink", "attack", "said"),
    [
        (None, attacks.sign_flip(0.2), r"built with uplink=attackable\(codec\)"),
        (
            attackable(identity()),
            attacks.neurotoxin(attacks.sign_flip(0.2)),
            r"uplink=attackable\(codec, informed=True\)",
        ),
    ],
    ids=["not attackable", "not informed"],
)
def test_an_attack_on_updates_is_refused_without_the_codec_that_it_needs(uplink, attack, said):
    rounds = simulate(
        fed_avg(LOSS, LIKE, client_optimizer=optax.sgd(1.0), uplink=uplink),
        LIKE,
        (),
        CORPUS,
        Batching(batch=1, steps=1),
        rounds=1,
        clients=3,
        seed=0,
        conditions=Conditions(attack=attack),
    )
    with pytest.raises(ValueError, match=said):
        next(rounds)


@pytest.mark.slow
def test_an_attackable_codec_changes_no_bit_of_an_honest_run():
    plain = fed_avg(LOSS, LIKE, client_optimizer=optax.sgd(1.0), uplink=codec("eden(bits=1)"))
    given = {"rounds": 2, "clients": 5, "seed": 0}
    *_, expected = simulate(plain, LIKE, (), CORPUS, Batching(batch=1, steps=1), **given)
    tapped = fed_avg(
        LOSS, LIKE, client_optimizer=optax.sgd(1.0), uplink=attackable(codec("eden(bits=1)"))
    )
    *_, got = simulate(tapped, LIKE, (), CORPUS, Batching(batch=1, steps=1), **given)
    np.testing.assert_array_equal(got.state.params, expected.state.params)
    assert got.messages == expected.messages
