import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from fedjax_llm import full, language_model, lora
from fedjax_llm.adapters.targets import PROJECTIONS
from fedjax_llm.data import Batch, all_windows
from tests.helpers.tiny import TINY


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_full_trains_every_parameter():
    task = language_model(TINY, key=jr.key(0), adapter=full())
    assert not jax.tree.leaves(task.frozen)


def test_lora_trains_rank_times_inputs_and_outputs_and_freezes_the_rest():
    whole = language_model(TINY, key=jr.key(0))
    task = language_model(TINY, key=jr.key(0), adapter=lora(rank=3, targets="q_proj,down_proj"))
    # q_proj is 16 x 16 and down_proj 24 x 16, in two layers
    assert size(task.params) == 2 * 3 * ((16 + 16) + (24 + 16))
    assert size(task.frozen) == size(whole.params)


def test_lora_leaves_the_initial_loss_unchanged_and_lowers_it_in_a_step(corpus):
    whole = language_model(TINY, key=jr.key(0))
    task = language_model(TINY, key=jr.key(0), adapter=lora(rank=2))
    batch = jax.tree.map(lambda leaf: leaf[0], all_windows(corpus, seq=16, batch=8))
    start = task.loss(task.params, task.frozen, batch)
    np.testing.assert_allclose(start, whole.loss(whole.params, {}, batch), rtol=1e-6)
    gradient = jax.jit(jax.grad(task.loss))(task.params, task.frozen, batch)
    stepped = optax.apply_updates(task.params, jax.tree.map(lambda g: -0.1 * g, gradient))
    assert task.loss(stepped, task.frozen, batch) < start


def test_alpha_scales_the_gradient_of_b():
    one = language_model(TINY, key=jr.key(0), adapter=lora(rank=2, alpha=1.0))
    two = language_model(TINY, key=jr.key(0), adapter=lora(rank=2, alpha=2.0))
    ids = jnp.arange(16).reshape(1, 16)
    batch = Batch(ids, ids, jnp.ones((1, 16)))

    def gradient_of_b(task):
        gradient = jax.jit(jax.grad(task.loss))(task.params, task.frozen, batch)
        return gradient["blocks"]["attention"]["q_proj"]["adapter"]["b"]

    np.testing.assert_allclose(gradient_of_b(two), 2 * gradient_of_b(one), rtol=1e-4)


def test_all_projections_are_targets_by_default():
    task = language_model(TINY, key=jr.key(0), adapter=lora(rank=1))
    assert len(jax.tree.leaves(task.params)) == 2 * len(set(PROJECTIONS) - {"qkv_proj"})


def test_a_target_that_the_model_lacks_is_refused():
    with pytest.raises(ValueError, match=r"among q_proj, .* which this model has, .*got .*qkv"):
        language_model(TINY, key=jr.key(0), adapter=lora(rank=1, targets="qkv_proj"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "lora: rank: expected an integer at least 1, got 0"),
        ({"rank": 2, "targets": "q_prj"}, "lora: targets: expected names among q_proj"),
        ({"rank": 2, "targets": ()}, "lora: targets: expected names among q_proj"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lora(**arguments)
