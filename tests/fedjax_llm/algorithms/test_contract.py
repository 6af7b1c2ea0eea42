"""The contract of every algorithm. A factory that is not in a task's table fails the suite."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import wire

from fedjax_llm import algorithms
from fedjax_llm.algorithms.registry import METHODS as ALGORITHMS
from fedjax_llm.ledger import entries, lengths, total_bytes
from tests.helpers.algorithm_table import (
    ROUNDS,
    TABLE,
    build,
    close,
    equal,
    finite,
    play,
    played,
    program,
    start,
)

CLIENTS = 4
ALIKE = ("fed_bpt",)
"""Methods whose clients count equally, whatever their positive weights."""


def test_every_factory_is_in_the_table():
    public = {name for name, value in vars(algorithms).items() if callable(value)}
    tables = {name.split(",")[0] for name in TABLE}
    assert public == {*tables, "split_lora"}  # a SplitMethod, tested in its own file
    assert set(ALGORITHMS) <= public  # the registry


@pytest.mark.parametrize("name", TABLE)
def test_rounds_move_the_parameters_and_every_client_axis_computes_the_same(name):
    state, own, _, _ = played(name)
    assert finite((state, own))
    first = start(TABLE[name], program(name)[0])
    assert not equal((state.params, own), (first[0].params, first[1]))
    if not name.startswith(("fed_md", "flora")):  # their servers do not train params
        assert not equal(state.params, first[0].params)
    for axis in ("scan",) if name.endswith(", coded") else ("scan", "chunked"):
        close(played(name, axis)[0].params, state.params)
        close(played(name, axis)[1], own, 2e-4)


@pytest.mark.parametrize("name", TABLE)
def test_a_run_resumed_from_the_arrays_of_its_state_is_bit_identical(name):
    task, (algorithm, one, _) = TABLE[name], program(name)
    first = start(task, algorithm)
    kept = play(task, one, *first, range(2))[:2]
    assert [jax.tree.map(jnp.shape, tree) for tree in first] == [
        jax.tree.map(jnp.shape, tree) for tree in kept
    ]
    fresh = jax.tree.structure(start(task, build(name)))
    state, own = jax.tree.unflatten(fresh, jax.device_get(jax.tree.leaves(kept)))
    assert equal(play(task, one, state, own, range(2, ROUNDS))[:2], played(name)[:2])


@pytest.mark.parametrize("name", TABLE)
def test_rounds_trace_once(name):
    once, *later = played(name)[3]
    assert once > 0
    assert set(later) == {once}


@pytest.mark.parametrize("name", TABLE)
def test_a_failed_client_is_left_out_and_its_state_stays_finite(name):
    task, (algorithm, one, _) = TABLE[name], program(name)
    state, own, _ = play(task, one, *start(task, algorithm), range(2))
    batches = task.cohort(9)
    broken = batches._replace(y=batches.y.at[1, 0, 0].set(jnp.nan))
    got, after, (_, _, info, watched) = play(task, one, state, own, [5], broken)
    expected, _, _ = play(task, one, state, own, [5], batches, task.WEIGHTS.at[1].set(0))
    assert (int(watched.accepted), int(watched.failed)) == (CLIENTS - 1, 1)
    assert np.isnan(info.loss[1])
    close(got, expected, 1e-6)
    assert finite(after)


@pytest.mark.parametrize("name", TABLE)
def test_where_all_clients_fail_the_server_state_is_that_after_its_broadcast(name):
    task, (algorithm, one, _) = TABLE[name], program(name)
    state, own, _ = play(task, one, *start(task, algorithm), range(2))
    batches = task.cohort(9)
    broken = batches._replace(y=jnp.full_like(batches.y, jnp.nan))
    got, _, (_, _, _, watched) = play(task, one, state, own, [5], broken)
    key = jr.split(jr.fold_in(jr.fold_in(jr.key(3), 5), 2**32 - 2))[0]
    assert equal(got.params, state.params)
    close(got, jax.jit(algorithm.broadcast)(key, state)[1], 1e-6)
    assert (int(watched.accepted), int(watched.failed)) == (0, CLIENTS)


def without_client_rows(state):
    """A server state's fields that have no row for each client."""
    return {
        name: value for name, value in state._asdict().items() if name not in ("stack", "residual")
    }


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ALIKE])
def test_a_client_of_weight_two_counts_as_two_clients(name):
    task, (algorithm, one, _) = TABLE[name], program(name)
    state, own = start(task, algorithm)
    ways = ([0, 0, 1, 2], [1.0, 1.0, 3.0, 1.5]), ([0, 1, 2, 3], [2.0, 3.0, 1.5, 0.0])
    got = [
        one(jr.key(1), task.FROZEN, state, *map(jnp.array, (rows, weights)), own, here)[0]
        for rows, weights in ways
        for here in [jax.tree.map(lambda leaf, rows=rows: leaf[jnp.array(rows)], task.cohort())]
    ]
    close(*map(without_client_rows, got))


@pytest.mark.parametrize("name", ALIKE)
def test_clients_of_positive_weight_count_equally(name):
    task, (algorithm, one, _) = TABLE[name], program(name)
    first = start(task, algorithm)
    got, again, all_four = (
        play(task, one, *first, range(2), weights=weights)[0]
        for weights in (
            jnp.array([1.0, 1.0, 1.0, 0.0]),
            jnp.array([5.0, 0.5, 2.0, 0.0]),
            task.WEIGHTS,
        )
    )
    assert equal(got, again)
    assert not equal(got.params, all_four.params)


@pytest.mark.parametrize("name", TABLE)
def test_the_ledger_counts_the_dumped_bytes_and_they_load_again(name):
    downlink, uplinks, _, _ = jax.device_get(played(name)[2])
    listed = entries(1, range(CLIENTS), len(wire.dumps(downlink)), lengths(uplinks))
    sent = [jax.tree.map(lambda leaf, row=row: leaf[row], uplinks) for row in range(CLIENTS)]
    made = [wire.dumps(one) for one in sent]
    assert total_bytes(listed, "up") == sum(map(len, made))
    assert total_bytes(listed, "down") == CLIENTS * len(wire.dumps(downlink))
    for one, data in zip([downlink, *sent], [wire.dumps(downlink), *made], strict=True):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), one)
        assert wire.dumps(wire.loads(data, like)) == data


@pytest.mark.parametrize("name", ["ditto", "fed_rep", "fed_md", "fedsa_lora"])
def test_a_personal_model_has_the_structure_of_the_servers_and_other_values(name):
    state, own, _, _ = played(name)
    first, second = (jax.tree.map(lambda leaf, row=row: leaf[row], own) for row in range(2))
    algorithm, _, _ = program(name)
    models = [algorithm.personal(state.params, one) for one in (first, second)]
    assert jax.tree.map(jnp.shape, models[0]) == jax.tree.map(jnp.shape, TABLE[name].PARAMS)
    assert not equal(*models)
    assert not equal(models[0], state.params)


@pytest.mark.parametrize("name", TABLE)
def test_parameters_of_another_structure_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name.split(',')[0]}: params: expected .* as in like"):
        build(name).init(jr.key(0), {"adapter": {"a": jnp.zeros((2, 2)), "b": jnp.eye(2)}})
