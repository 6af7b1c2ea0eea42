"""Contract tests of every adapter."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import Task, classification, fed_avg, language_model
from fedjax_llm.adapters import (
    bitfit,
    bottleneck,
    dora,
    ia3,
    int8_base,
    layers,
    lora,
    merge_adapter,
    nf4_base,
    prefix_tuning,
    prompt_tuning,
    rslora,
    seeds,
)
from fedjax_llm.data import Batching, all_windows
from fedjax_llm.models import EncoderConfig, generate
from fedjax_llm.simulation import simulate, vmap
from tests.helpers.tiny import TINY

# Each with a learning rate and the number of trained entries. In each of two layers q, k, v and o
# are 16 x 16, gate and up 16 x 24, down 24 x 16.
ADAPTERS = {
    "lora": (lora(rank=2, targets="q_proj,up_proj"), 0.1, 2 * 2 * (32 + 40)),
    "lora of patterns": (
        lora(
            rank=2,
            targets=r".*layers\.1\.self_attn.*|.*\.o_proj",
            rank_pattern="layers.0.*o_proj=3",
            alpha_pattern={"q_proj": 8.0},
        ),
        0.1,
        3 * 2 * 32 + 2 * 32 + 3 * 32,
    ),
    "rslora": (rslora(rank=4, targets="v_proj"), 0.1, 2 * 4 * 32),
    "dora": (dora(rank=2, targets="q_proj,down_proj"), 0.1, 2 * (2 * (32 + 40) + 32)),
    "dora of patterns": (
        dora(rank=2, targets=r".*layers\.1\..*q_proj|.*v_proj"),
        0.1,
        3 * (2 * 32 + 16),
    ),
    "ia3": (ia3(), 0.1, 2 * (16 + 16 + 24)),
    "bitfit": (bitfit(), 0.1, 2 * (4 * 16 + 2 * 24 + 16)),
    "bottleneck": (bottleneck(size=3), 0.1, 2 * 2 * (2 * 16 * 3 + 16 + 3)),
    "prompt_tuning": (prompt_tuning(tokens=4), 0.1, 4 * 16),
    "prefix_tuning": (prefix_tuning(tokens=4), 0.1, 2 * 2 * 4 * 16),
    "layers": (layers(1), 0.1, 4 * 256 + 3 * 16 * 24 + 32),
    "seeds": (seeds(count=5), 1e-6, 5),
    "int8_base": (int8_base(lora(rank=2, targets="q_proj,up_proj")), 0.1, 2 * 2 * (32 + 40)),
    "nf4_base": (nf4_base(ia3()), 0.1, 2 * (16 + 16 + 24)),
}
CHANGES_THE_START = {"prompt_tuning", "prefix_tuning", "int8_base", "nf4_base"}
HAS_A_PLAIN_MODEL = set(ADAPTERS) - {"bitfit", "bottleneck", "prompt_tuning", "prefix_tuning"}
each = pytest.mark.parametrize("name", ADAPTERS)


@pytest.fixture(scope="module")
def batch(corpus):
    return jax.tree.map(lambda leaf: leaf[0], all_windows(corpus, seq=16, batch=4))


class Trained(NamedTuple):
    """A task, its losses before steps one and two, and its parameters after zero to two steps."""

    task: Task
    losses: tuple
    params: tuple


@functools.cache
def make(name):
    return language_model(TINY, key=jr.key(0), adapter=ADAPTERS[name][0])


@pytest.fixture(scope="module")
def trained(batch):
    @functools.cache
    def train(name):
        task, rate = make(name), ADAPTERS[name][1]
        step = jax.jit(jax.value_and_grad(task.loss))
        params, losses = [task.params], []
        for _ in range(2):
            loss, gradient = step(params[-1], task.frozen, batch)
            losses.append(float(loss))
            params.append(jax.tree.map(lambda p, g: p - rate * g, params[-1], gradient))
        return Trained(task, tuple(losses), tuple(params))

    return train


@pytest.mark.slow
@each
def test_the_number_of_trained_entries(name):
    assert sum(leaf.size for leaf in jax.tree.leaves(make(name).params)) == ADAPTERS[name][2]


@pytest.mark.long
@each
def test_the_initial_loss_is_that_of_the_plain_model(name, batch, task, trained):
    off = abs(trained(name).losses[0] - task.loss(task.params, task.frozen, batch))
    assert (off < 1e-5) == (name not in CHANGES_THE_START)
    assert off < 0.3


@pytest.mark.slow
@each
def test_a_step_lowers_the_loss(name, trained):
    start, then = trained(name).losses
    assert then < start - 1e-5


@each
def test_every_trained_leaf_moves_in_two_steps(name, trained):
    start, _, end = trained(name).params
    moved = jax.tree.map(lambda before, after: not np.array_equal(before, after), start, end)
    assert all(jax.tree.leaves(moved)), moved


@pytest.mark.long
@each
def test_a_round_of_vmapped_clients_runs_and_moves_the_server(name, corpus):
    task = make(name)
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(ADAPTERS[name][1]))
    batching = Batching(seq=16, batch=2, steps=2)
    (only,) = simulate(
        algorithm,
        task.params,
        task.frozen,
        corpus,
        batching,
        rounds=1,
        clients=3,
        seed=0,
        client_axis=vmap(),
    )
    assert only.server_info.failed == 0
    assert np.isfinite(only.client_info.loss).all()
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), only.state.params, task.params)
    assert any(jax.tree.leaves(changed))
    up = [entry.payload_bytes for entry in only.messages if entry.direction == "up"]
    assert up == [4 * ADAPTERS[name][2]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HAS_A_PLAIN_MODEL))
def test_merged_parameters_give_the_same_loss_in_a_plain_model(name, batch, task, trained):
    adapted, _, (_, params, _) = trained(name)
    merged = merge_adapter(adapted.model(params, adapted.frozen))
    np.testing.assert_allclose(task.loss(merged, {}, batch), trained(name).losses[1], rtol=1e-5)
    assert jax.tree.structure(merged) == jax.tree.structure(task.params)


@pytest.mark.slow
def test_a_classifiers_adapter_is_merged_into_its_plain_parameters():
    config = EncoderConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    task = classification(config, labels=3, key=jr.key(0), adapter=dora(rank=2))
    params = jax.tree.map(lambda leaf: leaf + 0.1, task.params)
    adapted = task.model(params, task.frozen)
    plain = classification(config, labels=3, key=jr.key(1), params=merge_adapter(adapted))
    ids = jnp.arange(8).reshape(2, 4)
    np.testing.assert_allclose(
        plain.model(plain.params, plain.frozen)(ids), adapted(ids), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", sorted(set(ADAPTERS) - HAS_A_PLAIN_MODEL))
def test_an_adapter_without_a_plain_model_is_not_merged(name):
    task = make(name)
    with pytest.raises(ValueError, match=r"merge_adapter: model: expected .* has a place for, got"):
        merge_adapter(task.model(task.params, task.frozen))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prompt_tuning", "prefix_tuning", "layers", "nf4_base"])
def test_generation_from_a_cache_equals_that_from_the_whole_text(name):
    task = make(name)
    model = task.model(task.params, task.frozen)
    prompts = jnp.arange(10).reshape(2, 5)
    new = generate(model, prompts, lengths=jnp.array([5, 3]), max_new_tokens=4).tokens
    whole = jnp.concatenate([prompts[:1], new[:1]], axis=1)
    assert np.array_equal(model(whole)[0, 4:-1].argmax(axis=-1), new[0])
