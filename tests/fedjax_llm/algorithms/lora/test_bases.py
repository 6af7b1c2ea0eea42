"""FedEx-LoRA and FLoRA, which change every client's base; RoLoRA's missed messages."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm.algorithms.averaging import fed_avg
from fedjax_llm.algorithms.lora import fedex_lora, flora
from fedjax_llm.algorithms.shared.base_changes import base_of
from fedjax_llm.client_training import local_steps
from tests.helpers.algorithm_table import close, finite, played
from tests.helpers.lora_rounds import after, play, program_of, sizes, start, trained_alone
from tests.helpers.low_rank_task import (
    A_VALUES,
    B_VALUES,
    CLIENTS,
    COHORT,
    FROZEN,
    LIKE,
    PARAMS,
    RANK,
    SCALE,
    SGD,
    STEPS,
    cohort,
    error,
    kernels,
    loss,
    mean_of_products,
)

# Methods that need every message.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rolora", "fedex_lora", "flora", "flora_ranks"])
def test_a_client_that_missed_a_message_counts_as_failed_from_then_on(name):
    algorithm, program = program_of(name)
    state, first = start(algorithm)
    state, own, _ = play(program, state, first, [0])
    state, own, _ = play(program, state, own, [1])
    late = jax.tree.map(lambda new, old: new.at[3].set(old[3]), own, first)
    for number in (2, 3):
        got, late, (_, _, _, watched) = play(program, state, late, [number])
        assert (int(watched.accepted), int(watched.failed)) == (CLIENTS - 1, 1)
        assert finite(got)
        state = got


# FedEx-LoRA.


def models(factors, frozen):
    """The weighted mean of the clients' kernels, in float64."""
    return {
        name: np.asarray(frozen[name]["kernel"], np.float64) + SCALE * mean
        for name, mean in mean_of_products(factors).items()
    }


@pytest.mark.slow
def test_fedexs_model_is_the_mean_of_the_clients_models_and_fed_avgs_is_not():
    rate = optax.sgd(0.1)
    exact = models(trained_alone(optimizer=rate), FROZEN)
    apart, _, _ = after(fed_avg(loss, LIKE, client_optimizer=rate), 1)
    state, _, _ = after(fedex_lora(loss, LIKE, client_optimizer=rate, **COHORT), 1)
    close(state.params, apart.params, 1e-6)
    assert error(kernels(state.params, base_of(state, FROZEN)), exact) < 1e-6
    assert error(kernels(apart.params, FROZEN), exact) > 1e-4


@pytest.mark.slow
def test_fedex_stays_exact_in_the_second_round_with_the_servers_base_at_each_client():
    algorithm, program = program_of("fedex_lora")
    state, own, _ = play(program, *start(algorithm), [0])
    frozen, params = base_of(state, FROZEN), state.params
    state, own, _ = play(program, state, own, [1])
    for row in range(CLIENTS):
        held = jax.tree.map(lambda leaf, row=row: leaf[row], own.held.base)
        close(
            kernels(params, base_of(own.held._replace(base=held), FROZEN)),
            kernels(params, frozen),
            1e-6,
        )
    train = local_steps(loss, SGD)
    factors = jax.vmap(lambda batches: train(params, frozen, batches)[0])(cohort(1))
    assert error(kernels(state.params, base_of(state, FROZEN)), models(factors, frozen)) < 1e-6


def test_fedexs_residual_has_the_rank_of_all_clients_but_one():
    state, _, (downlink, _, _, _) = played("fedex_lora")
    for a, b in state.residual:
        assert a.shape[-1] == b.shape[-2] == (CLIENTS - 1) * RANK
    wide = np.asarray(state.residual[1].a, np.float64) @ np.asarray(state.residual[1].b)
    values = np.linalg.svd(wide, compute_uv=False)
    assert (values > 1e-5 * values[0]).sum() == min((CLIENTS - 1) * RANK, 6)
    lora = A_VALUES + B_VALUES
    assert sizes("fedex_lora") == (12 + 4 * lora, 12 + 4 + 4 * lora + 4 * (CLIENTS - 1) * lora)
    assert downlink.payload.change[0].a.shape == (2, 6, (CLIENTS - 1) * RANK)


@pytest.mark.slow
def test_a_residual_is_added_once_if_the_next_rounds_fail():
    algorithm, program = program_of("fedex_lora")
    state, own, _ = play(program, *start(algorithm), range(2))
    nothing = cohort(5)._replace(y=jnp.full((CLIENTS, STEPS, 4, 9), jnp.nan))
    state, own, _ = play(program, state, own, [5], nothing)
    state, own, _ = play(program, state, own, [6], nothing)
    close(jax.tree.map(lambda leaf: leaf[0], own.held.base), state.base, 1e-6)


# FLoRA.


@pytest.mark.slow
def test_floras_stack_is_the_weighted_mean_of_the_products():
    algorithm, program = program_of("flora")
    before, own = start(algorithm)
    state, own, (_, uplinks, _, _) = play(program, before, own, [0])
    mean = mean_of_products(uplinks)
    for name, (a, b) in zip(sorted(PARAMS), state.stack, strict=True):
        assert a.shape[-1] == b.shape[-2] == CLIENTS * RANK
        stack = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
        np.testing.assert_allclose(stack, mean[name], atol=1e-6)
        change = state.base[name]["kernel"] - before.base[name]["kernel"]
        np.testing.assert_allclose(change, SCALE * mean[name], atol=1e-6)
        assert np.abs(mean[name]).max() > 1e-3
    assert error(kernels(before.params, base_of(before, FROZEN)), kernels(PARAMS, FROZEN)) < 1e-6


@pytest.mark.slow
def test_floras_clients_train_fresh_factors_from_the_servers_base():
    algorithm, program = program_of("flora")
    state, own, (_, first, _, _) = play(program, *start(algorithm), [0])
    frozen = base_of(state, FROZEN)
    _, own, (_, uplinks, _, _) = play(program, state, own, [1])
    for name in PARAMS:
        np.testing.assert_allclose(
            own.held.base[name]["kernel"][1], state.base[name]["kernel"], atol=1e-6
        )
        a = np.asarray(uplinks[name]["adapter"]["a"])
        assert not np.allclose(a[0], a[1], atol=1e-1)
        assert not np.allclose(a[0], first[name]["adapter"]["a"][0], atol=1e-1)
    # b starts at zero, so that one SGD step moves only b, along the gradient at the server's model
    one = jax.tree.map(lambda leaf: leaf[:, :1], cohort(1))
    _, _, (_, uplinks, _, _) = play(program, *play(program, *start(algorithm), [0])[:2], [1], one)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    batch = jax.tree.map(lambda leaf: leaf[0, 0], one)
    slope = jax.grad(lambda frozen: loss(zero, frozen, batch))(frozen)
    for name in PARAMS:
        a, b = (uplinks[name]["adapter"][half][0] for half in "ab")
        moved = -0.02 * SCALE * jnp.swapaxes(a, -1, -2) @ slope[name]["kernel"]
        np.testing.assert_allclose(b, moved, atol=1e-5)


def test_flora_sends_clients_times_its_factors_down():
    lora = A_VALUES + B_VALUES
    assert sizes("flora") == (12 + 4 * lora, 12 + 4 + 4 * CLIENTS * lora)


@pytest.mark.slow
@pytest.mark.parametrize("factory", [fedex_lora, flora])
def test_methods_that_change_the_base_refuse_arguments_that_break_exactness(factory):
    who = factory.__name__
    leaf = jnp.zeros((3, 3))
    uneven = {"a": {"rank1": leaf[:, :1]}, "b": {"rank1": leaf[:1]}}
    cases = [
        (LIKE, {"scale": 0.0}, "scale: expected a number above 0, got 0.0"),
        (LIKE, {"clients": 0}, "clients: expected an integer at least 1, got 0"),
        (
            LIKE,
            {"uplink": codec("ef21(top_k(fraction=0.5))")},
            "uplink: expected a codec .* as the server needs each client's factors",
        ),
        ({"adapter": uneven}, {}, "got adapter/rank1; layers of different ranks"),
    ]
    for like, change, message in cases:
        with pytest.raises(ValueError, match=f"{who}: .*{message}"):
            factory(loss, like, client_optimizer=SGD, **{**COHORT, **change})
    algorithm = factory(loss, LIKE, client_optimizer=SGD, **COHORT)
    with pytest.raises(ValueError, match=f"{who}: cohort: expected 4 clients, got 3; build"):
        algorithm.gather.empty(algorithm.init(jr.key(0), PARAMS), 3)
