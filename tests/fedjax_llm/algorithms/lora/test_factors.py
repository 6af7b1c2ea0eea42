"""Methods that average LoRA factors: exact means are checked for equality, errors are measured."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import wire

from fedjax_llm.algorithms.averaging import fed_avg
from fedjax_llm.algorithms.lora import ffa_lora, flasc, rolora
from fedjax_llm.client_training import local_steps
from fedjax_llm.ledger import entries, lengths, total_bytes
from fedjax_llm.simulation import round_program, vmap
from tests.helpers.algorithm_table import close, equal, played
from tests.helpers.lora_rounds import (
    after,
    first_round,
    play,
    program_of,
    sizes,
    start,
    trained_alone,
)
from tests.helpers.low_rank_task import (
    A_VALUES,
    B_VALUES,
    CLIENTS,
    FROZEN,
    LIKE,
    ONE,
    PARAMS,
    SGD,
    STEPS,
    TABLE,
    WEIGHTS,
    cohort,
    error,
    loss,
    mean_of_products,
    products,
)

# FedIT: fed_avg of both factors.


@pytest.mark.slow
def test_fed_avgs_product_is_off_by_the_covariance_of_the_factors():
    """Product of means minus mean of products is minus the weighted covariance of a and b."""
    rate = optax.sgd(0.1)
    state, _, _ = after(fed_avg(loss, LIKE, client_optimizer=rate), 1)
    factors = trained_alone(optimizer=rate)
    exact = mean_of_products(factors)
    shares = np.asarray(WEIGHTS) / WEIGHTS.sum()
    for name, got in products(state.params).items():
        a, b = (np.asarray(factors[name]["adapter"][half], np.float64) for half in "ab")
        d, e = (x - np.tensordot(shares, x, 1) for x in (a, b))
        spread = sum(share * d[k] @ e[k] for k, share in enumerate(shares))
        np.testing.assert_allclose(got, exact[name] - spread, atol=1e-6)
    changed = error(exact, products(PARAMS))
    assert error(products(state.params), exact) > 0.02 * changed


# FFA-LoRA.


def test_ffas_mean_is_the_mean_of_the_products_and_a_is_unchanged():
    algorithm = ffa_lora(loss, LIKE, client_optimizer=SGD)
    state, _, (_, uplinks, _, _) = after(algorithm, 1)
    factors = {
        name: {
            "adapter": {
                "a": jnp.stack([PARAMS[name]["adapter"]["a"]] * CLIENTS),
                "b": PARAMS[name]["adapter"]["b"] + moved,
            }
        }
        for name, moved in zip(sorted(PARAMS), uplinks, strict=True)
    }
    assert error(products(state.params), mean_of_products(factors)) < 1e-6
    assert error(products(state.params), products(PARAMS)) > 1e-2
    for name in PARAMS:
        assert equal(state.params[name]["adapter"]["a"], PARAMS[name]["adapter"]["a"])


@pytest.mark.slow
def test_ffas_client_trains_as_with_a_frozen():
    algorithm = ffa_lora(loss, LIKE, client_optimizer=SGD)
    alone = WEIGHTS[:1]
    state, _, _ = after(algorithm, 1, weights=alone, batches=cohort(0, 1))
    params = PARAMS
    for step in range(STEPS):
        batch = jax.tree.map(lambda leaf, step=step: leaf[0, step], cohort(0, 1))
        if batch.mask.sum() == 0:
            continue
        gradient = jax.grad(loss)(params, FROZEN, batch)
        params = {
            name: {
                "adapter": {
                    "a": pair["adapter"]["a"],
                    "b": pair["adapter"]["b"] - 0.02 * gradient[name]["adapter"]["b"],
                }
            }
            for name, pair in params.items()
        }
    close(state.params, params, 1e-6)


def test_ffa_sends_only_b_in_both_directions():
    assert sizes("ffa_lora") == (12 + 4 * B_VALUES, 12 + 4 * B_VALUES)


# FedSA-LoRA.


@pytest.mark.slow
def test_fedsa_averages_a_and_each_client_keeps_its_b():
    state, own, _ = first_round("fedsa_lora")
    factors = trained_alone()
    shares = WEIGHTS / WEIGHTS.sum()
    for index, name in enumerate(sorted(PARAMS)):
        mean = jnp.tensordot(shares, factors[name]["adapter"]["a"], 1)
        close(state.params[name]["adapter"]["a"], mean, 1e-6)
        assert equal(state.params[name]["adapter"]["b"], PARAMS[name]["adapter"]["b"])
        close(own.work[index], factors[name]["adapter"]["b"], 1e-6)
        assert not np.allclose(own.work[index][0], own.work[index][1])


def test_fedsas_client_continues_from_its_b():
    algorithm, one = program_of("fedsa_lora")
    state, own, _ = play(one, *start(algorithm), range(1))
    _, later, _ = play(one, state, own, [1])
    second = jax.tree.map(lambda leaf: leaf[1], own)
    batches = jax.tree.map(lambda leaf: leaf[1], cohort(1))
    expected, _ = local_steps(loss, SGD)(algorithm.personal(state.params, second), FROZEN, batches)
    for index, name in enumerate(sorted(PARAMS)):
        close(later.work[index][1], expected[name]["adapter"]["b"], 1e-6)


def test_fedsa_sends_only_a_in_both_directions():
    assert sizes("fedsa_lora") == (12 + 4 * A_VALUES, 12 + 4 * A_VALUES)


# FLASC.


@pytest.mark.slow
def test_flasc_with_all_entries_is_fed_avg():
    dense = flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE, up=1.0, down=1.0)
    plain = fed_avg(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE)
    close(after(dense)[0].params, after(plain)[0].params, 1e-6)


@pytest.mark.slow
def test_flascs_clients_start_from_the_largest_entries_and_train_all():
    sparse = flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE, up=1.0, down=0.25)
    state, _, _ = after(sparse, 1)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(PARAMS)])
    least = np.sort(np.abs(flat))[-round(0.25 * flat.size)]
    masked = jax.tree.map(lambda leaf: jnp.where(jnp.abs(leaf) >= least, leaf, 0.0), PARAMS)
    shares = WEIGHTS / WEIGHTS.sum()
    moved = jax.tree.map(
        lambda new, old, own: own + jnp.tensordot(shares, new - old, 1),
        trained_alone(masked),
        masked,
        PARAMS,
    )
    close(state.params, moved, 1e-6)


@pytest.mark.slow
def test_flasc_sends_the_given_share_of_values_and_keeps_no_residual():
    _, own, (downlink, uplinks, _, _) = played("flasc")
    count = round(0.25 * (A_VALUES + B_VALUES))
    assert downlink.params.payload.values.shape == (count,)
    assert uplinks.values.shape == (CLIENTS, count)
    assert not jax.tree.leaves(own)
    plain, _ = sizes("fed_avg, LoRA")
    down = len(wire.dumps(jax.device_get(downlink)))
    assert 4 * count < down < plain / 2


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_flasc_refuses_shares_out_of_range(share):
    with pytest.raises(ValueError, match="flasc: down: expected a number above 0 and at most 1"):
        flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE, down=share)


# RoLoRA.


@pytest.mark.slow
def test_rolora_trains_one_factor_a_round_and_its_mean_is_the_mean_of_the_products():
    algorithm = rolora(loss, LIKE, client_optimizer=SGD)
    program = round_program(algorithm, vmap())
    state, own = start(algorithm)
    for number, (due, other) in enumerate(("ba", "ab", "ba")):
        before = state.params
        state, own, (_, uplinks, _, _) = play(program, state, own, [number])
        start_of, factors = 0, {}
        for name in sorted(PARAMS):
            held = before[name]["adapter"]
            size = held[due].size
            part = uplinks.values[:, start_of : start_of + size]
            start_of += size
            moved = held[due] + part.reshape(CLIENTS, *held[due].shape)
            still = jnp.stack([held[other]] * CLIENTS)
            factors[name] = {"adapter": {due: moved, other: still}}
            assert equal(state.params[name]["adapter"][other], held[other])
        assert error(products(state.params), mean_of_products(factors)) < 1e-6
        assert error(products(state.params), products(before)) > 1e-3


@pytest.mark.slow
def test_roloras_second_round_trains_a_as_with_b_frozen():
    algorithm = rolora(loss, LIKE, client_optimizer=SGD)
    program = round_program(algorithm, vmap())
    state, own, _ = play(program, *start(algorithm, 1), [0], weights=WEIGHTS[:1])
    first = jax.tree.map(lambda leaf: leaf[:, :1], cohort(1, 1))
    got, _, _ = play(program, state, own, [1], first, WEIGHTS[:1])
    batch = jax.tree.map(lambda leaf: leaf[0, 0], first)
    gradient = jax.grad(loss)(state.params, FROZEN, batch)
    for name in PARAMS:
        a = state.params[name]["adapter"]["a"] - 0.02 * gradient[name]["adapter"]["a"]
        close(got.params[name]["adapter"]["a"], a, 1e-6)


@pytest.mark.slow
def test_rolora_sends_one_factor_and_clients_have_the_servers_parameters():
    algorithm, program = program_of("rolora")
    state, own = start(algorithm)
    up, down = [], []
    for number in range(3):
        held = state.params
        state, own, (downlink, uplinks, _, _) = play(program, state, own, [number])
        close(jax.tree.map(lambda leaf: leaf[2], own.params), held, 1e-7)
        downlink, uplinks = jax.device_get((downlink, uplinks))
        listed = entries(1, range(CLIENTS), len(wire.dumps(downlink)), lengths(uplinks))
        up.append(total_bytes(listed, "up") / CLIENTS)
        down.append(total_bytes(listed, "down") / CLIENTS)
    assert up == [16 + 4 * B_VALUES, 16 + 4 * A_VALUES, 16 + 4 * B_VALUES]
    assert down == [20, 20 + 4 * B_VALUES, 20 + 4 * A_VALUES]


OVER_FACTORS = [name for name in TABLE if name != "fed_avg, LoRA"]


@pytest.mark.parametrize("name", OVER_FACTORS)
def test_parameters_other_than_lora_factors_are_refused(name):
    leaf, who = jnp.zeros((3, 3)), name.split(",")[0]
    with pytest.raises(
        ValueError, match=f"{who}: params: expected LoRA factors a and b only, got kernel"
    ):
        TABLE[name](loss, {"kernel": leaf, "adapter": {"a": leaf, "b": leaf}})
    with pytest.raises(ValueError, match=f"{who}: .* got a, b, magnitude; use fed_avg for DoRA"):
        TABLE[name](loss, {"adapter": {"a": leaf, "b": leaf, "magnitude": leaf[0]}})
    with pytest.raises(ValueError, match=f"{who}: .* got none"):
        TABLE[name](loss, {})
