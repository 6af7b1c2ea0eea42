"""DP-FedAvg: what one client can move, and the noise, against the definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_llm import aggregators as rules
from fedjax_llm.testing import check_aggregator

LIKE = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(5), "c": jnp.zeros(5)}
CLIP, Z, N = 0.7, 1.3, 6
RULE = rules.dp_fed_avg(clip=CLIP, noise_multiplier=Z)
GROUPED = rules.dp_fed_avg(clip=CLIP, noise_multiplier=Z, groups="a, b")
ADAPTIVE = rules.adaptive_dp_fed_avg(0.5, clip=CLIP, count_noise=2.0)


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def updates(count, scale=1.0, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * random.normal(size=(count, *leaf.shape)), jnp.float32),
        LIKE,
    )


def clipped_sum(tree, bound=CLIP):
    """The reference: rows in float64, clipped by the norm of the whole row, summed."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * np.minimum(1, bound / norms)).sum(0)


def folded(rule, tree, weights=None, clients=N):
    count = len(jax.tree.leaves(tree)[0])
    weights = jnp.ones(count) if weights is None else jnp.asarray(weights, jnp.float32)
    return rule.add(rule.empty(LIKE, clients), tree, weights)


def draws(rule, partial, count, memory=None):
    """`count` releases of one partial, `[count, entries]`, without their mean."""
    memory = rule.noised.init() if memory is None else memory

    @jax.jit
    @jax.vmap
    def release(key):
        update, _ = rule.noised.finish(key, memory, partial)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(update)])

    return np.asarray(release(jax.random.split(jax.random.key(5), count)), np.float64)


def is_the_noise(noise, deviation):
    """Whether rows of noise are independent N(0, deviation^2) in every entry.

    The sum of all squares against chi-square, and each pair of entries' correlation against a
    normal, two-sided, at 1e-6 each (Bonferroni over pairs). With 4,000 draws of 16 entries, a
    deviation off by 1.05 is 12 standard deviations away.
    """
    count, entries = noise.shape
    p = stats.chi2.cdf((noise**2).sum() / deviation**2, count * entries)
    if not 5e-7 < p < 1 - 5e-7:
        return False
    correlation = np.corrcoef(noise.T)[np.triu_indices(entries, 1)] * np.sqrt(count)
    bound = stats.norm.isf(1e-6 / 2 / len(correlation))
    centred = np.abs(noise.mean(0)).max() * np.sqrt(count) / deviation < stats.norm.isf(1e-7)
    return np.abs(correlation).max() < bound and centred


@pytest.mark.slow
@pytest.mark.parametrize("rule", [RULE, ADAPTIVE], ids=["fixed", "adaptive"])
def test_the_rule_keeps_the_contract(rule):
    check_aggregator(rule)


@pytest.mark.slow
def test_the_sum_is_of_clipped_rows_and_the_divisor_is_constant():
    """Of 6 planned clients, 4 answer, whatever weights they claim: the sum is divided by 6."""
    tree = updates(4)
    partial = folded(RULE, tree, weights=[1, 1e6, 3, 0.5])
    np.testing.assert_allclose(flat(partial.total), clipped_sum(tree), rtol=1e-5, atol=1e-6)
    mean = draws(RULE, partial, 4000).mean(0)
    noise = 6 * stats.norm.isf(1e-7) * Z * CLIP / N / np.sqrt(4000)
    assert np.abs(mean - clipped_sum(tree) / N).max() < noise
    by_hand = rules.dp_fed_avg(clip=CLIP, noise_multiplier=Z, divisor=2.5)
    assert float(folded(by_hand, tree).divisor) == 2.5


@pytest.mark.slow
def test_the_noise_on_the_mean_is_that_of_the_definition():
    noise = draws(RULE, folded(RULE, updates(N)), 4000) - clipped_sum(updates(N)) / N
    deviation = Z * CLIP / N
    assert is_the_noise(noise, deviation)
    for wrong in (1.05, 1 / 1.05, np.sqrt(N), 1 / N, 2.0):
        assert not is_the_noise(noise, deviation * wrong), wrong


@pytest.mark.slow
def test_noise_that_is_switched_off_shared_or_narrow_is_caught():
    """The test above rejects no noise, one draw for two equal leaves, and noise in bfloat16."""
    partial = folded(RULE, updates(N))
    noise = draws(RULE, partial, 4000) - clipped_sum(updates(N)) / N
    deviation = Z * CLIP / N
    assert not is_the_noise(0 * noise, deviation)
    shared = noise.copy()
    shared[:, 11:] = noise[:, 6:11]  # leaf c as leaf b
    assert not is_the_noise(shared, deviation)
    largest = np.abs(draws(RULE, partial, 40_000) / deviation).max()
    assert largest > 4  # in bfloat16 none exceeds 2.9


@pytest.mark.slow
@pytest.mark.parametrize("rule", [RULE, GROUPED], ids=["whole", "groups"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 1e20])
def test_one_client_moves_the_sum_by_at_most_the_clip(scale, rule):
    """Added, removed or zeroed out; replaced by its opposite it moves twice that."""
    others, one = updates(4), updates(1, scale, seed=1)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), others, one)
    with_it = flat(folded(rule, both).total)
    without = flat(folded(rule, others).total)
    zeroed = flat(folded(rule, both, weights=[1, 1, 1, 1, 0]).total)
    np.testing.assert_allclose(zeroed, without, atol=1e-6)
    moved = np.linalg.norm(with_it - without)
    assert moved <= CLIP * (1 + 1e-5)
    if scale >= 1:
        assert moved >= CLIP * (1 - 1e-5)
        opposite = jax.tree.map(lambda a, b: jnp.concatenate([a, -b]), others, one)
        replaced = np.linalg.norm(with_it - flat(folded(rule, opposite).total))
        np.testing.assert_allclose(replaced, 2 * CLIP, rtol=1e-5)


@pytest.mark.slow
def test_padding_failed_rows_and_empty_rounds_release_noise_of_the_same_size():
    tree = updates(N)
    padded = jax.tree.map(lambda leaf: jnp.concatenate([leaf, 9 * leaf[-1:]]), tree)
    whole, more = folded(RULE, tree), folded(RULE, padded, weights=[1] * N + [0])
    np.testing.assert_allclose(flat(more.total), flat(whole.total), atol=1e-6)
    assert float(more.divisor) == float(whole.divisor) == N
    failed = jax.tree.map(lambda leaf: leaf.at[2].set(jnp.nan), tree)
    left = jax.tree.map(lambda leaf: jnp.delete(leaf, 2, axis=0), tree)
    np.testing.assert_allclose(flat(folded(RULE, failed).total), clipped_sum(left), atol=1e-6)
    nobody = RULE.empty(LIKE, N)
    assert is_the_noise(draws(RULE, nobody, 4000), Z * CLIP / N)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("z", "divisor", "expected"),
    [(1.0, 100, 1.005038), (9.0, 100, 20.647)],
)
def test_the_bits_and_the_updates_share_the_cost(z, divisor, expected):
    """Theorem 1 with the paper's count noise, n / 20: published values, and the noise itself."""
    rule = rules.adaptive_dp_fed_avg(z, clip=2.0, divisor=divisor)
    np.testing.assert_allclose((z**-2 - (divisor / 10) ** -2) ** -0.5, expected, rtol=3e-5)
    noise = draws(rule, rule.empty(LIKE, 3), 4000)
    assert is_the_noise(noise, expected * 2.0 / divisor)
    assert not is_the_noise(noise, 1.05 * expected * 2.0 / divisor)


def test_bits_that_cost_more_than_the_whole_are_refused():
    with pytest.raises(ValueError, match="noise_multiplier: expected below 10, twice the noise"):
        rules.adaptive_dp_fed_avg(10.0, divisor=100)
    with pytest.raises(ValueError, match="expected below 3, twice"):
        rules.adaptive_dp_fed_avg(3.0, count_noise=1.5)
    late = rules.adaptive_dp_fed_avg(0.7)  # known when the cohort is
    late.empty(LIKE, 8)
    with pytest.raises(ValueError, match=r"expected below 0\.6, twice"):
        late.empty(LIKE, 6)


@pytest.mark.slow
def test_the_bound_moves_as_in_the_paper_and_clips_the_next_round():
    """C exp(-rate (share - quantile)), where the share has noise of `count_noise / divisor`."""
    rule = rules.adaptive_dp_fed_avg(
        1e-4, clip=1.0, quantile=0.75, rate=0.4, count_noise=0.8, divisor=4
    )
    rows = jax.tree.map(lambda leaf: jnp.zeros((3, *leaf.shape)), LIKE)
    rows["b"] = rows["b"].at[:, 0].set(jnp.array([0.5, 3.0, 5.0]))  # one of three is within
    partial = folded(rule, rows)
    assert float(partial.within) == -0.5

    keys = jax.random.split(jax.random.key(2), 4000)
    bounds = jax.vmap(lambda key: rule.noised.finish(key, jnp.float32(1.0), partial)[1])(keys)
    shares = 0.75 - np.log(np.asarray(bounds, np.float64)) / 0.4
    noise = (shares - (-0.5 / 4 + 0.5)) / (0.8 / 4)
    p = stats.kstest(noise, "norm").pvalue
    assert p > 1e-4
    assert stats.kstest(noise * 1.2, "norm").pvalue < 1e-4
    following = rule.noised.begin(jnp.float32(4.0), LIKE, 4)
    total = rule.add(following, rows, jnp.ones(3)).total["b"][0]
    np.testing.assert_allclose(total, 0.5 + 3.0 + 4.0, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.01, 50.0])
def test_the_bound_finds_the_quantile_of_norms(start):
    """300 rounds with 100 clients whose norms are uniform on [0, 2]: the median is 1."""
    rule = rules.adaptive_dp_fed_avg(0.5, clip=start, divisor=100)
    random = np.random.default_rng(3)
    release = jax.jit(rule.noised.finish)

    @jax.jit
    def add(bound, rows):
        return rule.add(rule.noised.begin(bound, jnp.zeros(1), 100), rows, jnp.ones(100))

    bound, late = rule.noised.init(), []
    for number in range(300):
        rows = jnp.asarray(random.uniform(0, 2, size=(100, 1)), jnp.float32)
        _, bound = release(jax.random.key(number), bound, add(bound, rows))
        late += [float(bound)] if number >= 200 else []
    assert 0.85 < np.mean(late) < 1.15


def test_a_rule_with_noise_needs_a_key_and_stands_alone():
    with pytest.raises(ValueError, match="finish: expected a method that gives the rule a key"):
        RULE.finish(RULE.empty(LIKE, N))
    for wrap in (rules.bucketing, lambda rule: rules.norm_bound(1.0, rule)):
        with pytest.raises(ValueError, match="rule: expected a rule without noise"):
            wrap(RULE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"clip": 0, "noise_multiplier": 1}, "clip: expected a number above 0"),
        ({"clip": float("inf"), "noise_multiplier": 1}, "clip: expected"),
        ({"clip": 1, "noise_multiplier": 0}, "noise_multiplier: expected a number above 0"),
        ({"clip": 1, "noise_multiplier": 1, "divisor": 0}, "divisor: expected"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        rules.dp_fed_avg(**arguments)
