"""What every algorithm promises. A factory that is not in the table fails the suite."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, wire

from fedjax_llm import algorithms
from fedjax_llm.ledger import entries, lengths, total_bytes
from fedjax_llm.runs.methods import ALGORITHMS
from fedjax_llm.simulation import chunked, scan, vmap
from fedjax_llm.simulation.simulate import round_program

from . import low_rank_task

PARAMS = {
    "blocks": {"kernel": 0.1 * jnp.arange(24.0).reshape(2, 3, 4)},
    "embedding": jnp.linspace(-1.0, 1.0, 15).reshape(5, 3),
    "scale": jnp.ones(3),
}
SIZE, CLIENTS, STEPS = 42, 4, 3
SGD, ADAM = optax.sgd(0.05, momentum=0.5), optax.adam(0.03)
PLAIN = optax.sgd(0.02)
LIKE = jax.eval_shape(lambda: PARAMS)
PUBLIC = np.arange(2 * 3 * 2 * 4).reshape(2, 3, 2, 4) % 5


def logits(params, frozen, tokens):
    """Of a vocabulary of five."""
    return params["embedding"][tokens] * params["scale"] @ params["embedding"].T


ASKED = {"logits": logits, "vocab": 5, "public": PUBLIC}
TABLE = {
    "fed_avg": lambda f, loss: f(loss, LIKE, client_optimizer=ADAM, server_optimizer=ADAM),
    "fed_avg, coded given the last update": lambda f, loss: f(
        loss, LIKE, client_optimizer=SGD, uplink=codec("eden(bits=3)"), prediction=0.5
    ),
    "fed_sgd": lambda f, loss: f(loss, LIKE, server_optimizer=SGD),
    "fed_prox": lambda f, loss: f(loss, LIKE, client_optimizer=SGD, mu=0.3),
    "scaffold": lambda f, loss: f(loss, LIKE, client_optimizer=SGD, population=10.0),
    "scaffold, coded": lambda f, loss: f(
        loss,
        LIKE,
        client_optimizer=SGD,
        population=10.0,
        uplink=codec("stochastic_quantize(bits=8)"),
        downlink=codec("ef21(stochastic_quantize(bits=8))"),
    ),
    "fed_nova": lambda f, loss: f(loss, LIKE, client_optimizer=SGD, mu=0.1),
    "fed_dyn": lambda f, loss: f(loss, LIKE, client_optimizer=SGD, population=10.0),
    "ditto": lambda f, loss: f(loss, LIKE, client_optimizer=SGD, mu=0.5),
    "fed_rep": lambda f, loss: f(loss, LIKE, client_optimizer=SGD, personal="^scale$", passes=2),
    "fed_rep, last layer": lambda f, loss: f(loss, LIKE, client_optimizer=ADAM, last=1),
    "diloco": lambda f, loss: f(loss, LIKE, client_optimizer=ADAM),
    "sparse_loco": lambda f, loss: f(loss, LIKE, client_optimizer=ADAM, fraction=0.2, chunk=16),
    "streaming_diloco": lambda f, loss: f(
        loss, LIKE, client_optimizer=ADAM, fragments_of=2, overlap=1
    ),
    "streaming_diloco, coded": lambda f, loss: f(
        loss,
        LIKE,
        client_optimizer=SGD,
        fragments_of=3,
        uplink=codec("error_feedback(stochastic_quantize(bits=8))"),
        downlink=codec("ef21(stochastic_quantize(bits=8))"),
    ),
    "muloco": lambda f, loss: f(loss, LIKE, rate=0.05),
    "cocktail_sgd": lambda f, loss: f(
        loss, LIKE, client_optimizer=ADAM, subset=0.5, fraction=0.5, bits=8
    ),
    "demo": lambda f, loss: f(loss, LIKE, rate=0.01, fraction=0.2, block=16),
    "demo, over senders": lambda f, loss: f(
        loss, LIKE, rate=0.01, fraction=0.2, block=16, over_senders=True
    ),
    "fed_md": lambda f, loss: f(loss, LIKE, client_optimizer=SGD, top=2, **ASKED),
    "fed_md, coded": lambda f, loss: f(
        loss,
        LIKE,
        client_optimizer=ADAM,
        top=5,
        uplink=codec("stochastic_quantize(bits=8)"),
        downlink=codec("stochastic_quantize(bits=8)"),
        **ASKED,
    ),
    "fed_bpt": lambda f, loss: f(loss, LIKE, dimension=4, generations=2, points=4),
    "fed_mezo": lambda f, loss: f(loss, LIKE, client_optimizer=ADAM, server_optimizer=SGD),
    "fed_kseed": lambda f, loss: f(loss, LIKE, client_optimizer=PLAIN, seeds=20),
    "decomfl": lambda f, loss: f(
        loss, LIKE, client_optimizer=PLAIN, steps=STEPS, draws=2, window=3
    ),
    "feed_sign": lambda f, loss: f(loss, LIKE, client_optimizer=PLAIN, window=3),
    "fwd_llm": lambda f, loss: f(loss, LIKE, server_optimizer=SGD, draws=2, candidates=3),
    "fwd_llm, pooled": lambda f, loss: f(
        loss, LIKE, server_optimizer=ADAM, candidates=1, variance=1.0
    ),
    "spry": lambda f, loss: f(loss, LIKE, server_optimizer=SGD, slices=2, draws=2),
}
"""By name, or name and variant: how to build it from its factory and a loss."""
ALIKE = ("fed_bpt",)
"""Whose clients count alike, whatever their weights."""


class Rows(NamedTuple):
    """Of a least-squares problem."""

    x: jax.Array
    y: jax.Array
    mask: jax.Array


def loss(params, frozen, batch):
    w = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    error = batch.x @ w - batch.y
    return 0.5 * (batch.mask * error**2).sum() / jnp.maximum(batch.mask.sum(), 1)


def cohort(seed=0):
    """Four clients of three steps; the last client's last step is masked out."""
    keys = jr.split(jr.key(seed), 2)
    x = 0.3 * jr.normal(keys[0], (CLIENTS, STEPS, 2, SIZE))
    y = jr.normal(keys[1], (CLIENTS, STEPS, 2))
    return Rows(x, y, jnp.ones((CLIENTS, STEPS, 2)).at[-1, -1].set(0))


WEIGHTS = jnp.array([1.0, 2.0, 3.0, 4.0])


def build(name, loss=loss):
    return TABLE[name](getattr(algorithms, name.split(",")[0]), loss)


def start(algorithm):
    own = algorithm.client_init(PARAMS)
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf] * CLIENTS), own)
    return algorithm.init(jr.key(7), PARAMS), rows


def play(program, state, own, rounds, batches=None, weights=WEIGHTS):
    """States, and what was seen, of some rounds, each with its own batches unless given."""
    for number in rounds:
        here = cohort(number) if batches is None else batches
        state, own, seen = program(
            jr.fold_in(jr.key(3), number), {}, state, jnp.arange(CLIENTS), weights, own, here
        )
    return state, own, seen


@functools.cache
def program(name, axis="vmap"):
    """An algorithm, its round, and how often its loss was traced."""
    traces = []

    def counted(params, frozen, batch):
        traces.append(axis)
        return loss(params, frozen, batch)

    axes = {"vmap": vmap(), "scan": scan(), "chunked": chunked(3)}
    algorithm = build(name, counted)
    return algorithm, round_program(algorithm, axes[axis]), traces


@functools.cache
def played(name, axis="vmap"):
    algorithm, one, _ = program(name, axis)
    return play(one, *start(algorithm), range(4))


def equal(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def close(one, other, tolerance=2e-5):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), one, other)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_every_factory_is_in_the_table():
    public = {name for name, value in vars(algorithms).items() if callable(value)}
    tables = {name.split(",")[0] for name in (*TABLE, *low_rank_task.TABLE)}
    assert public == {*tables, "split_lora"}  # which meets its server in every step
    assert set(ALGORITHMS) <= public  # what the command takes


@pytest.mark.parametrize("name", TABLE)
def test_rounds_move_the_parameters_and_every_client_axis_computes_the_same(name):
    state, own, _ = played(name)
    assert finite((state, own))
    if name.startswith("fed_md"):  # whose server has no model
        assert not equal(own, start(build(name))[1])
    else:
        assert not equal(state.params, PARAMS)
    for axis in ("scan", "chunked"):
        close(played(name, axis)[0].params, state.params)
        close(played(name, axis)[1], own, 2e-4)


@pytest.mark.parametrize("name", TABLE)
def test_the_same_inputs_give_the_same_bits_and_other_keys_the_same_structure(name):
    algorithm, one, _ = program(name)
    state, own, _ = play(one, *start(algorithm), range(4))
    assert equal((state, own), played(name)[:2])
    first = start(algorithm)
    assert [jax.tree.map(jnp.shape, tree) for tree in first] == [
        jax.tree.map(jnp.shape, tree) for tree in (state, own)
    ]


@pytest.mark.parametrize("name", TABLE)
def test_a_run_goes_on_from_the_arrays_of_its_state(name):
    algorithm, one, _ = program(name)
    kept = jax.device_get(jax.tree.leaves(play(one, *start(algorithm), range(2))[:2]))
    fresh = jax.tree.structure(start(build(name)))
    state, own = jax.tree.unflatten(fresh, kept)
    assert equal(play(one, state, own, range(2, 4))[:2], played(name)[:2])


@pytest.mark.parametrize("name", TABLE)
def test_rounds_trace_once(name):
    algorithm, one, traces = program(name)
    state, own, _ = play(one, *start(algorithm), range(1))
    once = len(traces)
    play(one, state, own, range(1, 4))
    assert len(traces) == once > 0


@pytest.mark.parametrize("name", TABLE)
def test_a_client_that_fails_is_left_out_and_remembers_nothing_of_it(name):
    algorithm, one, _ = program(name)
    state, own, _ = play(one, *start(algorithm), range(2))
    batches = cohort(9)
    broken = batches._replace(y=batches.y.at[1, 0, 0].set(jnp.nan))
    got, after, (_, _, info, watched) = play(one, state, own, [5], broken)
    expected, _, _ = play(one, state, own, [5], batches, WEIGHTS.at[1].set(0))
    assert (int(watched.accepted), int(watched.failed)) == (CLIENTS - 1, 1)
    assert np.isnan(info.loss[1])
    close(got, expected, 1e-6)
    assert finite(after)


@pytest.mark.parametrize("name", TABLE)
def test_where_all_fail_the_server_stays_as_it_was_when_it_sent(name):
    algorithm, one, _ = program(name)
    state, own, _ = play(one, *start(algorithm), range(2))
    broken = cohort(9)._replace(y=jnp.full((CLIENTS, STEPS, 2), jnp.nan))
    got, _, (_, _, _, watched) = play(one, state, own, [5], broken)
    key = jr.split(jr.fold_in(jr.fold_in(jr.key(3), 5), 2**32 - 2))[0]
    assert equal(got.params, state.params)
    close(got, jax.jit(algorithm.broadcast)(key, state)[1], 1e-6)
    assert (int(watched.accepted), int(watched.failed)) == (0, CLIENTS)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ALIKE])
def test_a_client_of_weight_two_counts_as_two_clients(name):
    algorithm, one, _ = program(name)
    state, own = start(algorithm)
    ways = ([0, 0, 1, 2], [1.0, 1.0, 3.0, 1.5]), ([0, 1, 2, 3], [2.0, 3.0, 1.5, 0.0])
    got = [
        one(jr.key(1), {}, state, *(jnp.array(leaf) for leaf in (rows, weights)), own, here)[0]
        for rows, weights in ways
        for here in [jax.tree.map(lambda leaf, rows=rows: leaf[jnp.array(rows)], cohort())]
    ]
    close(got[0], got[1])


@pytest.mark.parametrize("name", ALIKE)
def test_clients_count_alike_unless_they_are_not_there(name):
    _, one, _ = program(name)
    first = start(program(name)[0])
    got, _, _ = play(one, *first, range(2), weights=jnp.array([1.0, 1.0, 1.0, 0.0]))
    again, _, _ = play(one, *first, range(2), weights=jnp.array([5.0, 0.5, 2.0, 0.0]))
    all_four, _, _ = play(one, *first, range(2))
    assert equal(got, again)
    assert not equal(got.params, all_four.params)


@pytest.mark.parametrize("name", TABLE)
def test_the_ledger_counts_the_bytes_that_are_made_and_they_say_what_was_sent(name):
    downlink, uplinks, _, _ = jax.device_get(played(name)[2])
    listed = entries(1, range(CLIENTS), len(wire.dumps(downlink)), lengths(uplinks))
    sent = [jax.tree.map(lambda leaf, row=row: leaf[row], uplinks) for row in range(CLIENTS)]
    made = [wire.dumps(one) for one in sent]
    assert total_bytes(listed, "up") == sum(map(len, made))
    assert total_bytes(listed, "down") == CLIENTS * len(wire.dumps(downlink))
    for one, data in zip([downlink, *sent], [wire.dumps(downlink), *made], strict=True):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), one)
        assert wire.dumps(wire.loads(data, like)) == data


@pytest.mark.parametrize("name", ["ditto", "fed_rep", "fed_md"])
def test_a_clients_own_model_is_like_the_servers_and_not_the_same(name):
    state, own, _ = played(name)
    first, second = (jax.tree.map(lambda leaf, row=row: leaf[row], own) for row in range(2))
    algorithm, _, _ = program(name)
    models = [algorithm.personal(state.params, one) for one in (first, second)]
    assert jax.tree.map(jnp.shape, models[0]) == jax.tree.map(jnp.shape, PARAMS)
    assert not equal(*models)
    assert not equal(models[0], state.params)


@pytest.mark.parametrize("name", TABLE)
def test_parameters_of_another_structure_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name.split(',')[0]}: expected parameters like"):
        build(name).init(jr.key(0), {"kernel": jnp.zeros((2, 2))})
