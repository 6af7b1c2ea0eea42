"""Parameters in bfloat16 learn with small steps as float32 does, in every method."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import algorithms, fed_avg, local_steps
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.ledger import total_bytes
from fedjax_llm.precision import cast
from fedjax_llm.simulation import round_program, simulate, vmap
from tests.helpers import low_rank_task
from tests.helpers.algorithm_table import TABLE
from tests.helpers.quadratics import loss, pulls, rounds

OPTIMA = np.array([[4.0, -2.0], [3.0, 6.0]])
WEIGHTS = np.array([1.0, 3.0])
START = np.array([1.0, 2.0])
SMALL = optax.sgd(1e-4)
"""Steps of 3e-4 to 6e-4; half a unit in the last place of 1.0 is 2e-3 in bfloat16."""
LEARNING = {
    "fed_avg": {"client_optimizer": SMALL},
    "fed_sgd": {"server_optimizer": optax.sgd(4e-4)},
    "fed_nova": {"client_optimizer": SMALL},
    "fed_dyn": {"client_optimizer": SMALL, "population": 4.0, "alpha": 0.1},
    "scaffold": {"client_optimizer": SMALL, "population": 4.0},
    "q_fed_avg": {"client_optimizer": SMALL, "lipschitz": 1e4},
    "mime_lite": {"rate": 1e-4},
    "ditto": {"client_optimizer": SMALL},
    "diloco": {"client_optimizer": optax.adam(1e-4)},
    "streaming_diloco": {"client_optimizer": optax.adam(1e-4), "fragments_of": 2},
    "cocktail_sgd": {"client_optimizer": SMALL, "bits": 32},
    "fed_mezo": {"client_optimizer": SMALL, "radius": 0.1},
    "decomfl": {"client_optimizer": SMALL, "steps": 4, "radius": 0.1},
    "fed_avg, server": {"client_optimizer": SMALL, "server_optimizer": optax.adam(4e-4)},
}
FAST = ("fed_avg", "scaffold", "streaming_diloco")


def decrease(name, dtype):
    """How much the loss of the mean client falls in ten rounds of four steps, in float64."""
    params = jnp.asarray(START, dtype)
    method = getattr(algorithms, name.split(",")[0])(loss, params, **LEARNING[name])
    batches = pulls(jnp.asarray(OPTIMA, jnp.float32), steps=4)
    state, _ = rounds(method, params, batches, jnp.asarray(WEIGHTS), number=10)

    def mean_loss(w):
        return 0.5 * WEIGHTS @ ((np.asarray(w, float) - OPTIMA) ** 2).sum(axis=1)

    return mean_loss(START) - mean_loss(state.params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in LEARNING],
)
def test_steps_too_small_for_bfloat16_are_not_lost(name):
    full = decrease(name, jnp.float32)
    assert full > 0
    assert decrease(name, jnp.bfloat16) > 0.9 * full


def narrow(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tree)


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def structure(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


REFUSING = ("flexlora", "hetlora")
"""Methods whose clients send factors and not differences."""
ROUNDED = ("fed_bpt", "fed_md", "fed_sb", "ffa_lora", "flora", "flora_ranks")
"""Methods whose `params` are made of what the server steps, or are not stepped."""


def built(name, like, monkeypatch):
    """A method of the contract's table for parameters of another structure."""
    task = TABLE[name]
    if task is low_rank_task:
        return task.TABLE[name](task.loss, like)
    monkeypatch.setattr(task, "LIKE", like)
    return task.TABLE[name](task.loss)


def traced_round(task, algorithm, like):
    """The structures of the states before and after a round, and of its messages."""

    def start(params):
        own = algorithm.client_init(params)
        rows = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(task.WEIGHTS)), own)
        return algorithm.init(jr.key(0), params), rows

    def first_round(state, rows, frozen, batches):
        clients = jnp.arange(len(task.WEIGHTS))
        program = round_program(algorithm, vmap())
        return program(jr.key(0), frozen, state, clients, task.WEIGHTS, rows, batches)

    before = jax.eval_shape(start, like)
    *after, (down, up, _, _) = jax.eval_shape(first_round, *before, task.FROZEN, task.cohort())
    return before, tuple(after), (down, up)


def size(message):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(message))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLE if "," not in name])
def test_every_method_keeps_float32_copies_and_sends_the_parameters_dtypes(name, monkeypatch):
    task, full = TABLE[name], TABLE[name].LIKE
    if name in REFUSING:
        with pytest.raises(ValueError, match=rf"{name}: like: expected parameters in float32"):
            built(name, narrow(full), monkeypatch)
        return
    like = narrow(full)
    before, after, sent = traced_round(task, built(name, like, monkeypatch), like)
    assert structure(after) == structure(before)
    if name not in ROUNDED:
        assert set(dtypes(before[0].params)) == {jnp.dtype("float32")}
    *_, wide = traced_round(task, built(name, full, monkeypatch), full)
    halved = name in ("fed_avg", "diloco", "fed_nova", "fed_dyn", "q_fed_avg", "ditto")
    for message, other in zip(sent, wide, strict=True):
        assert size(message) <= size(other) * (0.6 if halved else 1.0)


def tiny(dtype):
    """A softmax model of the next token of 16, and pairs of tokens of three clients."""
    keys = jr.split(jr.key(0), 2)
    params = {
        "embedding": jr.normal(keys[0], (16, 8)).astype(jnp.bfloat16).astype(dtype),
        "head": jr.normal(keys[1], (8, 16)).astype(jnp.bfloat16).astype(dtype),
    }

    def nats(params, frozen, rows):
        logits = params["embedding"][rows["token"]] @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows["next"])

    tokens = np.random.Generator(np.random.Philox(0)).integers(0, 16, (3, 40))
    data = {f"c{i}": {"token": row, "next": (3 * row + i) % 16} for i, row in enumerate(tokens)}
    return params, nats, from_arrays(data), tokens


def trained(dtype):
    params, nats, data, tokens = tiny(dtype)
    method = fed_avg(masked_mean(nats), params, client_optimizer=optax.adam(1e-3))
    batching = Batching(batch=8, steps=5)
    *_, last = simulate(method, params, (), data, batching, rounds=12, clients=3, seed=0)

    def mean_loss(params):
        rows = {"token": tokens, "next": (3 * tokens + np.arange(3)[:, None]) % 16}
        return float(nats(jax.tree.map(jnp.float32, params), (), rows).mean())

    return mean_loss(params) - mean_loss(last.state.params), last


@pytest.mark.slow
def test_a_tiny_model_in_bfloat16_learns_what_float32_learns_in_half_the_bytes():
    (full, wide), (half, narrow_run) = trained(jnp.float32), trained(jnp.bfloat16)
    assert full > 0.1
    assert half > 0.9 * full
    for way in ("up", "down"):
        entries = 2 * 16 * 8
        sent = [total_bytes(r.messages, way) for r in (wide, narrow_run)]
        assert sent[0] - sent[1] == 3 * 2 * entries
    assert set(dtypes(narrow_run.state.params)) == {jnp.dtype("float32")}


def test_local_steps_return_float32_copies_and_the_loss_gets_the_parameters_dtype():
    seen = []

    def watched(params, frozen, batch):
        seen.append(params.dtype)
        return loss(params, frozen, batch)

    params = jnp.asarray(START, jnp.bfloat16)
    batch = jax.tree.map(lambda leaf: leaf[0], pulls(jnp.asarray(OPTIMA, jnp.float32), steps=1))
    after, _ = local_steps(watched, optax.adam(1e-4))(params, {}, batch)
    assert set(seen) == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(after, np.add(START, [1e-4, -1e-4]), rtol=1e-7)
    assert (cast(after, params) == params).all()
