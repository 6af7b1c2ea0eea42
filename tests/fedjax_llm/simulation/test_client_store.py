"""The store of client states, and prefetching."""

import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_llm.simulation import ClientStore
from fedjax_llm.simulation.loop.prefetch import prefetched

FIRST = {"a": jnp.arange(3.0), "b": jnp.ones((), jnp.bfloat16), "c": jnp.zeros((2, 0))}


def states(rng, count):
    return {
        "a": rng.normal(size=(count, 3)).astype(np.float32),
        "b": rng.normal(size=count).astype(jnp.bfloat16),
        "c": np.zeros((count, 2, 0), np.float32),
    }


@pytest.fixture(params=["memory", "disk"])
def make(request, tmp_path):
    """A factory of stores whose blocks hold two rows, in memory or on disk."""
    folder = tmp_path / "rows" if request.param == "disk" else None
    return lambda first=FIRST: ClientStore(first, folder=folder, block_bytes=30)


def test_a_store_agrees_with_a_dictionary(make):
    """Over cohorts that overlap, in any order and across blocks."""
    rng, store, kept = np.random.default_rng(0), make(), {}
    for _ in range(30):
        cohort = rng.permutation(50)[: rng.integers(1, 12)]
        got = store.gather(cohort)
        for row, client in enumerate(cohort):
            for name, first in FIRST.items():
                expected = kept[client][name] if client in kept else first
                np.testing.assert_array_equal(got[name][row], np.asarray(expected))
                assert got[name].dtype == first.dtype
        new = states(rng, len(cohort))
        store.scatter(cohort, new)
        kept |= {
            client: {name: leaf[row] for name, leaf in new.items()}
            for row, client in enumerate(cohort)
        }
    rows = store.rows()
    assert rows.clients.tolist() == sorted(kept)
    assert store.touched == len(kept)


def test_a_copy_of_the_rows_restores_another_store(make):
    rng, store = np.random.default_rng(1), make()
    store.scatter([7, 3, 40], states(rng, 3))
    rows = store.rows()
    before = {name: leaf.copy() for name, leaf in rows.states.items()}
    store.scatter([3], states(rng, 1))
    other = ClientStore(FIRST)
    other.scatter(*rows)
    for name, leaf in other.gather([3, 7, 40]).items():
        np.testing.assert_array_equal(leaf, before[name])


def test_gathered_rows_are_a_copy(make):
    store = make()
    store.gather([1])["a"][:] = 9
    assert store.gather([1])["a"].tolist() == [[0, 1, 2]]


def test_a_store_holds_only_the_rows_that_were_written(tmp_path):
    """A megabyte per client, in blocks of one client; three clients are written."""
    store = ClientStore(np.zeros(2**18, np.float32), folder=tmp_path, block_bytes=2**20)
    store.gather(np.arange(20) * 50_000)
    store.scatter([5, 999_999, 2], np.ones((3, 2**18), np.float32))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 3 * 2**20


def test_a_new_store_overwrites_the_folder(tmp_path):
    ClientStore(np.zeros(4, np.float32), folder=tmp_path).scatter([0], np.ones((1, 4), np.float32))
    assert ClientStore(np.zeros(4, np.float32), folder=tmp_path).gather([0]).tolist() == [[0] * 4]


def test_prefetched_items_come_in_order_and_one_ahead():
    made = []

    def make(item):
        made.append(item)
        return item * item

    ahead = prefetched(make, range(5))
    assert next(ahead) == 0
    deadline = time.monotonic() + 30
    while made != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1]  # the next one, and none after it
    assert list(ahead) == [1, 4, 9, 16]


def test_a_prefetching_error_is_raised_at_its_item_and_ends_the_thread():
    ahead = prefetched(lambda item: 6 // item, [3, 2, 0, 1])
    assert next(ahead) == 2
    assert next(ahead) == 3
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    assert not threads()


def test_closing_the_iterator_ends_the_thread():
    ahead = prefetched(lambda item: item, iter(range(10**9)))
    next(ahead)
    assert threads()
    ahead.close()
    assert not threads()


def threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("prefetch")]
