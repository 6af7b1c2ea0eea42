"""Rules that store a row for each client: a median, right and wrong."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression.testing import ContractError

from fedjax_llm import Aggregator, fed_avg
from fedjax_llm.aggregators import centered_clipping, norm_bound, stacked
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.simulation import Conditions, Fate, Faults, chunked, simulate, vmap
from fedjax_llm.testing import check_aggregator

OPTIMA = np.random.default_rng(0).normal(size=(4, 1, 6)).astype("f4")


def median_of(rows, count):
    """The median of the first `count` rows; zero without any."""
    used = jnp.arange(len(rows)).reshape(-1, *[1] * (rows.ndim - 1)) < count
    ordered = jnp.sort(jnp.where(used, rows, jnp.inf), axis=0)
    low, high = ordered[jnp.maximum(count - 1, 0) // 2], ordered[count // 2]
    return jnp.where(count > 0, (low + high) / 2, 0.0)


def median():
    """The median of each entry over the rows that `stacked` keeps."""
    rows = stacked()

    def finish(stack):
        return jax.tree.map(lambda leaf: median_of(leaf, stack.filled), stack.rows)

    return rows._replace(finish=finish)


class Kept(NamedTuple):
    rows: jax.Array
    count: jax.Array


def storing_median(put):
    """A median that stores whatever rows it gets, one chunk after the other."""

    def empty(like, clients):
        rows = jax.tree.map(lambda leaf: jnp.zeros((clients, *leaf.shape)), like)
        return Kept(rows, jnp.int32(0))

    def add(partial, updates, weights):
        rows = jax.tree.map(lambda old, new: put(old, new, partial.count), partial.rows, updates)
        return Kept(rows, partial.count + len(weights))

    def finish(partial):
        return jax.tree.map(
            lambda leaf: median_of(leaf, jnp.minimum(partial.count, len(leaf))), partial.rows
        )

    return Aggregator(empty, add, lambda one, other: add(one, other.rows, other.rows), finish)


def overwrite(old, new, count):
    return jax.lax.dynamic_update_slice_in_dim(old, new, count, axis=0)


def drop_beyond(old, new, count):
    return old.at[count + jnp.arange(len(new))].set(new, mode="drop")


@pytest.mark.slow
@pytest.mark.parametrize("axis", [vmap(), chunked(3)], ids=["vmap", "chunked"])
@pytest.mark.parametrize("gone", [[], [1]], ids=["all", "one dropped"])
def test_a_median_is_that_of_the_clients_that_count(axis, gone):
    """Four clients in chunks of three: two rows of the last chunk are padding."""
    corpus = from_arrays({f"client {i}": optimum for i, optimum in enumerate(OPTIMA)})
    loss = masked_mean(lambda w, frozen, optimum: 0.5 * ((w - optimum) ** 2).sum(-1))
    like = jnp.zeros(6)
    algorithm = fed_avg(loss, like, client_optimizer=optax.sgd(1.0), aggregate=median())
    no = jnp.array(False)
    dropped = Faults(
        lambda key, number, client: Fate(
            jnp.isin(client, jnp.array([-1, *gone])), no, no, jnp.float32(1)
        )
    )
    given = {"rounds": 1, "clients": 4, "seed": 0, "client_axis": axis}
    given["conditions"] = Conditions(dropped)
    (r,) = simulate(algorithm, like, (), corpus, Batching(batch=1, steps=1), **given)
    expected = np.median(np.delete(OPTIMA[:, 0], gone, axis=0), axis=0)
    np.testing.assert_allclose(r.state.params, expected, atol=1e-6)


@pytest.mark.slow
def test_a_median_of_stacked_rows_keeps_the_contract():
    check_aggregator(median())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("put", "message"),
    [
        (overwrite, "padding: expected rows of weight zero, which fill up the last chunk, to cou"),
        (drop_beyond, "dropped clients: expected a row of zeros and weight zero, a client that"),
    ],
)
def test_a_rule_that_stores_rows_of_weight_zero_is_found_out(put, message):
    with pytest.raises(ContractError, match=message):
        check_aggregator(storing_median(put))


def test_help_says_what_add_gets():
    assert "a round may add more rows than `clients`" in " ".join(Aggregator.__doc__.split())


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e19, 1e30, 1e37])
@pytest.mark.parametrize("rule", [norm_bound, centered_clipping])
def test_a_norm_is_bounded_at_any_magnitude(rule, size):
    """Squares of 1e-30 vanish in float32, and those of 1e30 overflow."""
    rows = size * jnp.array([[3.0, 4.0]])
    for share in (0.5, 2.0):  # of the norm, 5 sizes
        bounding = rule(share * 5 * size)
        got = bounding.finish(bounding.add(bounding.empty(jnp.zeros(2), 1), rows, jnp.ones(1)))
        expected = min(share, 1.0) * np.asarray(rows[0], np.float64)
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=1e-5)
