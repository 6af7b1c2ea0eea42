"""Robust rules against float64 references, their conditions, and clients at infinity."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from fedjax_llm import aggregators as rules
from fedjax_llm.aggregators.registry import AGGREGATORS
from fedjax_llm.aggregators.rfa import weiszfeld
from fedjax_llm.aggregators.rows import by_columns, pairwise, sort_columns
from fedjax_llm.testing import check_aggregator
from tests.helpers import robust_references as reference

F = 2
N = 11
ROWS = np.random.default_rng(3).normal(size=(N, 7))
ROWS[-F:] += 4
TABLE = {
    "mean": (rules.mean(), lambda x: x.mean(0)),
    "median": (rules.median(), lambda x: np.median(x, 0)),
    "trimmed_mean": (rules.trimmed_mean(F), lambda x: reference.trimmed_mean(x, F)),
    "krum": (rules.krum(F), lambda x: reference.krum(x, F)),
    "multi_krum": (rules.multi_krum(F, m=4), lambda x: reference.multi_krum(x, F, 4)),
    "bulyan": (rules.bulyan(F), lambda x: reference.bulyan(x, F)),
    "rfa": (rules.rfa(iterations=200), reference.geometric_median),
    "centered_clipping": (
        rules.centered_clipping(2.0),
        lambda x: reference.centered_clipping(x, 0, 2.0, 1),
    ),
    "centered_clipping, 3 passes": (
        rules.centered_clipping(2.0, iterations=3),
        lambda x: reference.centered_clipping(x, 0, 2.0, 3),
    ),
    "nearest_neighbor_mixing": (
        rules.nearest_neighbor_mixing(rules.median(), F),
        lambda x: np.median(reference.mixed(x, F), 0),
    ),
    "fools_gold": (rules.fools_gold(), reference.fools_gold),
    "norm_bound": (
        rules.norm_bound(3.0),
        lambda x: reference.centered_clipping(x, 0, 3.0, 1),
    ),
    "flame": (rules.flame(0.0), reference.flame),
    "dnc": (rules.dnc(F), lambda x: reference.dnc(x, F)),
    "sign_majority": (rules.sign_majority(0.5), lambda x: 0.5 * np.sign(np.sign(x).sum(0))),
}


def combined(rule, rows, weights=None, clients=None):
    """The rule's update of rows `[n, d]`, whose columns are split over two leaves."""

    def whole(rows, weights):
        tree = {"a": rows[:, :2].reshape(len(rows), 2, 1), "b": rows[:, 2:]}
        like = jax.tree.map(lambda leaf: leaf[0], tree)
        return rule.finish(rule.add(rule.empty(like, clients or len(rows)), tree, weights))

    rows = jnp.asarray(rows, jnp.float32)
    weights = jnp.ones(len(rows)) if weights is None else jnp.asarray(weights, jnp.float32)
    update = jax.jit(whole)(rows, weights)
    return np.concatenate([np.asarray(update["a"]).reshape(-1), np.asarray(update["b"])])


def test_every_registered_rule_is_in_the_table():
    with_noise = {"adaptive_dp_fed_avg", "banded_dp_fed_avg", "distributed_dp", "local_dp"}
    in_files_of_their_own = {"dp_fed_avg", "secure_mean"} | with_noise
    assert set(AGGREGATORS) - set(TABLE) == {"weighted_mean", "bucketing"} | in_files_of_their_own


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_a_rule_is_that_of_its_definition(name):
    rule, expected = TABLE[name]
    np.testing.assert_allclose(combined(rule, ROWS), expected(ROWS), rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_claimed_weights_count_for_nothing_and_rows_of_weight_zero_are_nobody(name):
    """A dropped row between others and claimed weights leave the result of the other rows."""
    rule, expected = TABLE[name]
    rows = np.insert(ROWS, 4, 0, axis=0)
    weights = np.linspace(1, 1e6, N + 1)
    weights[4] = 0
    np.testing.assert_allclose(
        combined(rule, rows, weights, clients=N + 1), expected(ROWS), rtol=2e-5, atol=2e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_the_order_of_clients_does_not_matter(name):
    rule, _ = TABLE[name]
    shuffled = ROWS[np.random.default_rng(0).permutation(N)]
    np.testing.assert_allclose(combined(rule, shuffled), combined(rule, ROWS), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TABLE, "bucketing"])
def test_a_rule_keeps_the_contract(name):
    made = {**TABLE, "bucketing": (rules.bucketing(rules.median()), None)}
    check_aggregator(made[name][0], clients=N)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1e3, 1e30, 3e38])
@pytest.mark.parametrize("name", [*TABLE, "bucketing"])
def test_clients_at_infinity_move_a_rule_no_further_than_its_bound(name, size):
    """Two of eleven clients send huge updates; honest ones lie within 1 of (1, ..., 1)."""
    honest = 1 + np.random.default_rng(0).uniform(-0.3, 0.3, size=(N - F, 7))
    bad = size * np.array([[1.0, -1, 1, -1, 1, -1, 1], [1.0, -1, 1, -1, 1, -1, 1]])
    made = {**TABLE, "bucketing": (rules.bucketing(rules.median()), None)}
    update = combined(made[name][0], np.concatenate([honest, bad]))
    error = np.linalg.norm(update - honest.mean(0))
    bound = {
        "centered_clipping": 2.0,  # a radius of 2 from zero, towards sqrt(7)
        "centered_clipping, 3 passes": 1.0,
        "norm_bound": 3 * F / N + 0.6,
        "sign_majority": np.linalg.norm(1.3 * np.ones(7)) - 0.5 * np.sqrt(7) + 1e-3,
    }
    if name == "mean":
        assert not error < size / N
    elif name == "fools_gold":  # two alike at infinity are taken for Sybils
        assert error < 1.0
    else:
        assert error <= bound.get(name, 1.0), error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "needs", "why"),
    [
        (rules.krum(F), 2 * F + 3, "n >= 2 f \\+ 3"),
        (rules.multi_krum(F), 2 * F + 3, "n >= 2 f \\+ 3"),
        (rules.bulyan(F), 4 * F + 3, "n >= 4 f \\+ 3"),
        (rules.trimmed_mean(F), 2 * F + 1, "n >= 2 f \\+ 1"),
        (rules.nearest_neighbor_mixing(rules.mean(), F), 2 * F + 1, "n >= 2 f \\+ 1"),
        (rules.dnc(F, repeats=3), 3 * F + 1, "n > round"),
    ],
)
def test_a_condition_is_held_at_its_bound_and_refused_below(rule, needs, why):
    rows = ROWS[:needs]
    assert np.linalg.norm(combined(rule, rows)) > 0
    with pytest.raises(ValueError, match=f"at least {needs} clients .{why}"):
        combined(rule, rows[1:])
    lost = np.r_[0.0, np.ones(needs - 1)]  # one client fails in the round
    np.testing.assert_array_equal(combined(rule, rows, lost), 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rules.krum(-1), "krum: f: expected an integer at least 0, got -1"),
        (lambda: rules.rfa(iterations=0), "rfa: iterations: expected an integer at least 1"),
        (lambda: rules.norm_bound(0.0), "norm_bound: limit: expected a number above 0"),
        (lambda: rules.dnc(1, removed=0.1), "dnc: removed: expected a number that leaves out"),
        (lambda: rules.multi_krum(1, m=3).empty(jnp.zeros(1), 5), "m: expected at most n - f - 2"),
        (
            lambda: rules.bucketing(rules.krum(2)).empty(jnp.zeros(1), 12),
            "krum: clients: expected a cohort of at least 7 clients .*, got 6",
        ),
    ],
)
def test_bad_input_is_refused_with_the_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_krum_takes_the_published_vectors_third_value():
    """n - f - 1 neighbours would take index 4; unsquared distances or itself counted, index 0."""
    values = np.array([1, -0.9, 0.9, 0, 0.2, 1.5, -0.5])
    rows = np.repeat(values[:, None], 3, axis=1)
    np.testing.assert_allclose(combined(rules.krum(2), rows), 0.9, rtol=1e-6)


def test_krum_takes_the_first_of_equals():
    rows = np.array([[0.0] * 3, [1.0] * 3, [2.0] * 3, [3.0] * 3, [4.0] * 3])  # scores 5 2 2 2 5
    np.testing.assert_array_equal(combined(rules.krum(1), rows), 1.0)


def test_distances_are_exact_far_from_zero():
    rows = 1e3 + ROWS
    expected = ((ROWS[:, None] - ROWS[None]) ** 2).sum(-1)
    got = np.asarray(pairwise(jnp.asarray(rows, jnp.float32)))
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-6)
    assert (got >= 0).all()
    assert (np.diag(got) == 0).all()


@pytest.mark.slow
def test_the_geometric_median_and_its_published_iterations():
    x = jnp.array([[0.0, 0], [1, 0], [0, 1], [10, 10]])
    chosen = jnp.ones(4, bool)
    three = weiszfeld(x, chosen, x.mean(0), jnp.float32(1e-5), 3)
    np.testing.assert_allclose(three, [0.5701, 0.5701], atol=5e-5)
    for scale in (1.0, 1e-3, 1e-12):
        rule = rules.rfa(iterations=60)
        rows = np.asarray(x) * scale
        out = rule.finish(rule.add(rule.empty(x[0], 4), jnp.asarray(rows), jnp.ones(4)))
        np.testing.assert_allclose(out, np.array([0.5, 0.5]) * scale, rtol=1e-3)


def test_rfa_of_equal_rows_is_the_row():
    np.testing.assert_allclose(combined(rules.rfa(), np.full((5, 4), 0.25)), 0.25, rtol=1e-6)


@pytest.mark.parametrize(("iterations", "expected"), [(1, 0.42678), (3, 0.56014)])
def test_centred_clipping_has_its_published_values(iterations, expected):
    x = jnp.array([[0.0, 0], [1, 0], [0, 1], [10, 10]])
    rule = rules.centered_clipping(1.0, iterations=iterations)
    out = rule.finish(rule.add(rule.empty(x[0], 4), x, jnp.ones(4)))
    np.testing.assert_allclose(out, [expected, expected], atol=1e-5)


@pytest.mark.parametrize("iterations", [1, 2])
def test_centred_clipping_starts_from_the_last_aggregate(iterations):
    rule, last = rules.centered_clipping(0.5, iterations=iterations), jnp.full(7, 3.0)
    partial = rule.begin(jr.key(0), last, N)
    out = rule.finish(rule.add(partial, jnp.asarray(ROWS, jnp.float32), jnp.ones(N)))
    expected = reference.centered_clipping(ROWS, np.full(7, 3.0), 0.5, iterations)
    np.testing.assert_allclose(out, expected, rtol=1e-5)


@pytest.mark.slow
def test_buckets_are_drawn_anew_from_each_key_and_hold_every_client_once():
    rule = rules.bucketing(rules.mean(), size=2)
    rows = jnp.asarray(ROWS[:10], jnp.float32)

    def of(key, rule=rule):
        return rule.finish(rule.add(rule.begin(jr.key(key), rows[0] * 0, 10), rows, jnp.ones(10)))

    np.testing.assert_allclose(of(0), ROWS[:10].mean(0), atol=1e-6)
    medians = [of(key, rules.bucketing(rules.median(), size=2)) for key in range(3)]
    assert not np.allclose(medians[0], medians[1])
    assert not np.allclose(medians[1], medians[2])


@pytest.mark.slow
def test_the_noise_of_flame_has_its_scale_and_each_leaf_its_own():
    rule = rules.flame(0.1)
    rows = {name: jnp.ones((3, 2000)) / np.sqrt(4000) for name in "ab"}  # norm 1
    like = jax.tree.map(lambda leaf: leaf[0], rows)
    out = rule.finish(rule.add(rule.begin(jr.key(1), like, 3), rows, jnp.ones(3)))
    noise = [np.asarray(out[name]) - 1 / np.sqrt(4000) for name in "ab"]
    for each in noise:
        assert abs(each.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * 2000)
    assert abs(np.corrcoef(*noise)[0, 1]) < 4 / np.sqrt(2000)
    other = rule.finish(rule.add(rule.begin(jr.key(2), like, 3), rows, jnp.ones(3)))
    assert not np.allclose(other["a"], out["a"])


@pytest.mark.slow
def test_dnc_on_a_sketch_leaves_out_the_client_that_differs():
    rows = {"a": np.random.default_rng(0).normal(size=(9, 50, 40)), "b": np.zeros((9,))}
    rows["a"][4] += 2
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), rows)
    rule = rules.dnc(1, coordinates=100)
    like = jax.tree.map(lambda leaf: leaf[0], rows)
    out = rule.finish(rule.add(rule.begin(jr.key(0), like, 9), rows, jnp.ones(9)))
    expected = np.delete(np.asarray(rows["a"]), 4, axis=0).mean(0)
    np.testing.assert_allclose(out["a"], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13, 33])
def test_columns_are_sorted_as_numpy_sorts_them(rows):
    values = np.random.default_rng(rows).normal(size=(rows, 50)).astype("f4")
    values[:, ::3] = np.round(values[:, ::3])  # ties
    np.testing.assert_array_equal(sort_columns(jnp.asarray(values)), np.sort(values, 0))


def test_blocks_of_coordinates_cover_each_once():
    rows = jnp.arange(2 * 3 * 3001.0).reshape(2, 3, 3001)
    np.testing.assert_array_equal(by_columns(lambda b: b[1] - b[0], rows), rows[1] - rows[0])


def test_a_new_cohort_traces_once():
    traces = []
    rule = rules.krum(F)

    @jax.jit
    def one(rows, weights):
        traces.append(None)
        return rule.finish(rule.add(rule.empty(rows[0], N), rows, weights))

    one(jnp.asarray(ROWS), jnp.ones(N))
    one(jnp.asarray(ROWS[::-1].copy()), jnp.ones(N).at[3].set(0))
    assert len(traces) == 1


@pytest.mark.slow
@pytest.mark.parametrize("bad", [1, 3, 5])
def test_the_geometric_median_stays_within_its_bound_below_half(bad):
    """Bad clients agree on a far point; honest ones lie within 1 of the origin."""
    rows = np.random.default_rng(bad).normal(size=(N, 7))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[:bad] = 1e4
    share = bad / N
    moved = np.linalg.norm(combined(rules.rfa(iterations=300), rows))
    assert moved <= 2 * (1 - share) / (1 - 2 * share)
