import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire
from fedjax_compression.projections import count_sketch


def encoded(c, x):
    return c.encode(jr.key(0), x, ())[0]


def test_a_single_non_zero_entry_is_exact():
    c, x = count_sketch(rows=3, columns=8), jnp.zeros(100).at[17].set(-2.5)
    payload = encoded(c, x)
    assert sorted(np.abs(np.asarray(payload.table)).max(axis=1)) == [2.5, 2.5, 2.5]
    assert c.decode(payload, x)[17] == -2.5


def test_it_matches_a_numpy_table_of_signed_sums_and_their_median():
    n, rows, columns, seed = 200, 5, 31, 9
    x = np.array(jr.normal(jr.key(0), (n,)))
    words = np.asarray(jr.bits(jr.key(seed, impl="threefry2x32"), (rows, n), jnp.uint32))
    buckets, signs = (words >> 1) % columns, np.where(words & 1, -1.0, 1.0)
    table = np.zeros((rows, columns))
    for row in range(rows):
        np.add.at(table[row], buckets[row], signs[row] * x)
    c = count_sketch(rows=rows, columns=columns, seed=seed)
    payload = encoded(c, jnp.asarray(x))
    np.testing.assert_allclose(payload.table, table, atol=1e-5)
    expected = np.median([signs[r] * table[r, buckets[r]] for r in range(rows)], axis=0)
    np.testing.assert_allclose(c.decode(payload, jnp.asarray(x)), expected, atol=1e-5)


def test_the_sum_of_payloads_decodes_to_the_sketch_of_the_sum():
    c = count_sketch(rows=3, columns=50)
    xs = [
        {"w": jr.normal(jr.key(i), (20, 10)), "b": jr.normal(jr.key(9 + i), (7,))} for i in (0, 1)
    ]
    total = jax.tree.map(jnp.add, *(encoded(c, x) for x in xs))
    of_sum = encoded(c, jax.tree.map(jnp.add, *xs))
    np.testing.assert_allclose(total.table, of_sum.table, atol=1e-5)
    one, other = c.decode(total, xs[0]), c.decode(of_sum, xs[0])
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3])
def test_it_is_unbiased_over_seeds(rows):
    x, seeds = jnp.arange(1.0, 9.0), 150
    outs = []
    for seed in range(seeds):
        c = count_sketch(rows=rows, columns=4, seed=seed)
        outs.append(c.decode(encoded(c, x), x))
    outs = jnp.stack(outs)
    # the variance of one row is below ||x||^2 / columns, that of a median no more
    tolerance = 5 * jnp.sqrt(x @ x / 4 / seeds)
    assert jnp.abs(outs.mean(axis=0) - x).max() < tolerance
    assert jnp.abs(2 * outs.mean(axis=0) - x).max() > tolerance  # a wrong scale fails that test


@pytest.mark.slow
def test_one_row_has_the_docstrings_error_and_a_median_less():
    x, errors = jr.normal(jr.key(0), (20_000,)), {}
    for rows in (1, 5):
        c = count_sketch(rows=rows, columns=500)
        errors[rows] = float(((c.decode(encoded(c, x), x) - x) ** 2).sum() / (x @ x))
    assert errors[1] == pytest.approx(20_000 / 500, rel=0.2)  # 500 buckets: deviation 6 %
    assert errors[5] < 0.4 * errors[1]


def test_large_entries_stand_out():
    x = jr.normal(jr.key(0), (5000,)).at[jnp.array([10, 20, 30])].set(200.0)
    c = count_sketch(rows=5, columns=1000)
    out = c.decode(encoded(c, x), x)
    assert sorted(np.argsort(-np.abs(np.asarray(out)))[:3].tolist()) == [10, 20, 30]


def test_a_message_has_the_size_worked_by_hand():
    for entries in (1, 1000):
        payload = encoded(count_sketch(rows=3, columns=50), jnp.ones(entries))
        assert len(wire.dumps(payload)) == 12 + 3 * 50 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0, "columns": 5}, "count_sketch: rows: expected an integer at least 1 .*, got 0"),
        ({"rows": 1, "columns": 10**12}, "columns: expected .* at most 2147483647, got 1000000000"),
        ({"rows": 1, "columns": -5}, "count_sketch: columns: expected .* at least 1 .*, got -5"),
        (
            {"rows": 1, "columns": 5, "seed": -1},
            "count_sketch: seed: expected an integer at least 0 and at most 4294967295, got -1",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        count_sketch(**arguments)
