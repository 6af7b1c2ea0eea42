"""Methods over LoRA's factors: what is exact is equal, what is not is measured, bytes by hand."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, wire

from fedjax_llm.algorithms import fed_avg
from fedjax_llm.algorithms.fed_sb import bases, fed_sb
from fedjax_llm.algorithms.fedsa_lora import fedsa_lora, personal
from fedjax_llm.algorithms.ffa_lora import ffa_lora
from fedjax_llm.algorithms.flasc import flasc
from fedjax_llm.ledger import entries, total_bytes
from fedjax_llm.local import local_steps
from fedjax_llm.simulation import chunked, scan, vmap
from fedjax_llm.simulation.simulate import round_program

from .low_rank_task import (
    A_VALUES,
    B_VALUES,
    CLIENTS,
    FROZEN,
    LIKE,
    PARAMS,
    RANK,
    STEPS,
    WEIGHTS,
    after,
    cohort,
    error,
    loss,
    mean_of_products,
    play,
    products,
    start,
)

SGD, ADAM, ONE = optax.sgd(0.02), optax.adam(0.01), optax.sgd(1.0)
TABLE = {
    "fed_avg": lambda loss: fed_avg(loss, LIKE, client_optimizer=SGD),
    "ffa_lora": lambda loss: ffa_lora(loss, LIKE, client_optimizer=ADAM),
    "ffa_lora, coded": lambda loss: ffa_lora(
        loss,
        LIKE,
        client_optimizer=SGD,
        uplink=codec("error_feedback(top_k(fraction=0.5))"),
        downlink=codec("ef21(stochastic_quantize(bits=8))"),
    ),
    "fedsa_lora": lambda loss: fedsa_lora(loss, LIKE, client_optimizer=SGD),
    "fed_sb": lambda loss: fed_sb(loss, LIKE, client_optimizer=SGD),
    "flasc": lambda loss: flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ADAM),
}
"""By name, or name and variant: how to build it from a loss."""


@functools.cache
def program(name, axis="vmap"):
    axes = {"vmap": vmap(), "scan": scan(), "chunked": chunked(3)}
    algorithm = TABLE[name](loss)
    return algorithm, round_program(algorithm, axes[axis])


@functools.cache
def played(name, axis="vmap"):
    algorithm, one = program(name, axis)
    return play(one, *start(algorithm), range(4))


def equal(one, other):
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def close(one, other, tolerance=1e-5):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), one, other)


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def trained_alone(params=PARAMS, optimizer=SGD, seed=0):
    """Every client's factors after its local steps, on the whole of LoRA."""
    train = local_steps(loss, optimizer)
    return jax.vmap(lambda batches: train(params, FROZEN, batches)[0])(cohort(seed))


def sizes(name):
    """Bytes of one uplink and of one downlink, as the ledger counts them, headers and all."""
    downlink, uplinks, _, _ = jax.device_get(played(name)[2])
    listed = entries(1, range(CLIENTS), downlink, uplinks)
    up, down = total_bytes(listed, "up"), total_bytes(listed, "down")
    assert up % CLIENTS == down % CLIENTS == 0
    return up // CLIENTS, down // CLIENTS


# What every method promises.


@pytest.mark.parametrize("name", TABLE)
def test_every_client_axis_computes_the_same(name):
    state, own, _ = played(name)
    assert finite((state, own))
    for axis in ("scan", "chunked"):
        close(played(name, axis)[0].params, state.params)


@pytest.mark.parametrize("name", TABLE)
def test_a_run_goes_on_from_the_arrays_of_its_state(name):
    algorithm, one = program(name)
    kept = jax.device_get(jax.tree.leaves(play(one, *start(algorithm), range(2))[:2]))
    fresh = jax.tree.structure(start(TABLE[name](loss)))
    state, own = jax.tree.unflatten(fresh, kept)
    assert equal(play(one, state, own, range(2, 4))[:2], played(name)[:2])


@pytest.mark.parametrize("name", TABLE)
def test_rounds_trace_once(name):
    traces = 0

    def counted(params, frozen, batch):
        nonlocal traces
        traces += 1
        return loss(params, frozen, batch)

    algorithm = TABLE[name](counted)
    one = round_program(algorithm, vmap())
    state, own, _ = play(one, *start(algorithm), range(1))
    once = traces
    play(one, state, own, range(1, 4))
    assert traces == once > 0


@pytest.mark.parametrize("name", TABLE)
def test_a_client_that_fails_is_left_out_and_remembers_nothing_of_it(name):
    algorithm, one = program(name)
    state, own, _ = play(one, *start(algorithm), range(2))
    batches = cohort(9)
    broken = batches._replace(y=batches.y.at[1, 0, 0, 0].set(jnp.nan))
    got, kept, (_, _, info, watched) = play(one, state, own, [5], broken)
    expected, _, _ = play(one, state, own, [5], batches, WEIGHTS.at[1].set(0))
    assert (int(watched.accepted), int(watched.failed)) == (CLIENTS - 1, 1)
    assert np.isnan(info.loss[1])
    close(got, expected, 1e-6)
    assert finite(kept)


@pytest.mark.parametrize("name", TABLE)
def test_where_all_fail_the_server_stays_as_it_was_when_it_sent(name):
    algorithm, one = program(name)
    state, own, _ = play(one, *start(algorithm), range(2))
    broken = cohort(9)._replace(y=jnp.full((CLIENTS, STEPS, 4, 9), jnp.nan))
    got, _, (_, _, _, watched) = play(one, state, own, [5], broken)
    key = jr.split(jr.fold_in(jr.fold_in(jr.key(3), 5), 2**32 - 2))[0]
    assert equal(got.params, state.params)
    close(got, jax.jit(algorithm.broadcast)(key, state)[1], 1e-6)
    assert (int(watched.accepted), int(watched.failed)) == (0, CLIENTS)


@pytest.mark.parametrize("name", TABLE)
def test_the_ledger_counts_the_bytes_that_are_made_and_they_say_what_was_sent(name):
    downlink, uplinks, _, _ = jax.device_get(played(name)[2])
    listed = entries(1, range(CLIENTS), downlink, uplinks)
    sent = [jax.tree.map(lambda leaf, row=row: leaf[row], uplinks) for row in range(CLIENTS)]
    made = [wire.dumps(one) for one in sent]
    assert total_bytes(listed, "up") == sum(map(len, made))
    assert total_bytes(listed, "down") == CLIENTS * len(wire.dumps(downlink))
    for one, data in zip([downlink, *sent], [wire.dumps(downlink), *made], strict=True):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), one)
        assert equal(wire.loads(data, like), one)


@pytest.mark.parametrize("name", TABLE)
def test_parameters_of_another_structure_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name.split(',')[0]}: expected parameters like"):
        TABLE[name](loss).init(jr.key(0), {"adapter": {"a": jnp.zeros((2, 2)), "b": jnp.eye(2)}})


LORA_ONLY = {
    "ffa_lora": lambda like: ffa_lora(loss, like, client_optimizer=SGD),
    "fedsa_lora": lambda like: fedsa_lora(loss, like, client_optimizer=SGD),
    "fed_sb": lambda like: fed_sb(loss, like, client_optimizer=SGD),
    "flasc": lambda like: flasc(loss, like, client_optimizer=SGD, server_optimizer=ADAM),
}


@pytest.mark.parametrize("name", LORA_ONLY)
def test_what_is_not_lora_alone_is_refused_when_it_is_built(name):
    leaf = jnp.zeros((3, 3))
    with pytest.raises(ValueError, match=f"{name}: expected LoRA's a and b alone .* got kernel"):
        LORA_ONLY[name]({"kernel": leaf, "adapter": {"a": leaf, "b": leaf}})
    with pytest.raises(ValueError, match=f"{name}: .* got a, b, magnitude: with DoRA's"):
        LORA_ONLY[name]({"adapter": {"a": leaf, "b": leaf, "magnitude": leaf[0]}})
    with pytest.raises(ValueError, match=f"{name}: .* got none"):
        LORA_ONLY[name]({})


# FedIT: both factors averaged apart.


def test_fed_its_mean_is_off_by_the_spread_of_the_factors():
    """Product of means minus mean of products is minus the weighted covariance of a and b."""
    rate = optax.sgd(0.1)
    state, _, _ = after(fed_avg(loss, LIKE, client_optimizer=rate), vmap(), 1)
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


def test_ffas_mean_is_the_mean_of_the_products_and_a_stays():
    algorithm = ffa_lora(loss, LIKE, client_optimizer=SGD)
    state, _, (_, uplinks, _, _) = after(algorithm, vmap(), 1)
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


def test_ffas_client_trains_as_one_with_a_frozen_would():
    algorithm = ffa_lora(loss, LIKE, client_optimizer=SGD)
    alone = WEIGHTS[:1]
    state, _, _ = after(algorithm, vmap(), 1, weights=alone, batches=cohort(0, 1))
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


def test_ffa_sends_b_alone_in_both_directions():
    assert sizes("ffa_lora") == (12 + 4 * B_VALUES, 12 + 4 * B_VALUES)


# FedSA-LoRA.


def test_fedsa_averages_a_and_leaves_each_client_its_b():
    state, own, _ = after(TABLE["fedsa_lora"](loss), vmap(), 1)
    factors = trained_alone()
    shares = WEIGHTS / WEIGHTS.sum()
    for index, name in enumerate(sorted(PARAMS)):
        mean = jnp.tensordot(shares, factors[name]["adapter"]["a"], 1)
        close(state.params[name]["adapter"]["a"], mean, 1e-6)
        assert equal(state.params[name]["adapter"]["b"], PARAMS[name]["adapter"]["b"])
        close(own.work[index], factors[name]["adapter"]["b"], 1e-6)
        assert not np.allclose(own.work[index][0], own.work[index][1])


def test_fedsas_client_goes_on_with_its_own_b():
    algorithm, one = program("fedsa_lora")
    state, own, _ = play(one, *start(algorithm), range(1))
    _, later, _ = play(one, state, own, [1])
    second = jax.tree.map(lambda leaf: leaf[1], own)
    batches = jax.tree.map(lambda leaf: leaf[1], cohort(1))
    expected, _ = local_steps(loss, SGD)(personal(state.params, second), FROZEN, batches)
    for index, name in enumerate(sorted(PARAMS)):
        close(later.work[index][1], expected[name]["adapter"]["b"], 1e-6)


def test_fedsa_sends_a_alone_in_both_directions():
    assert sizes("fedsa_lora") == (12 + 4 * A_VALUES, 12 + 4 * A_VALUES)


# Fed-SB.


def test_fed_sbs_mean_is_the_mean_of_the_products():
    state, _, (_, uplinks, _, _) = after(TABLE["fed_sb"](loss), vmap(), 1)
    shares = WEIGHTS / WEIGHTS.sum()
    for name, (a, b), r in zip(sorted(PARAMS), bases(LIKE, seed=0), uplinks, strict=True):
        mean = sum(share * a @ r[k] @ b for k, share in enumerate(shares))
        got = state.params[name]["adapter"]
        np.testing.assert_allclose(got["a"] @ got["b"], mean, atol=1e-6)
        assert float(jnp.abs(mean).max()) > 1e-3


def test_fed_sb_starts_from_the_base_and_its_factors_are_orthonormal():
    state = TABLE["fed_sb"](loss).init(jr.key(0), PARAMS)
    assert error(products(state.params), {n: 0 * p for n, p in products(PARAMS).items()}) == 0
    for a, b in bases(LIKE, seed=0):
        unit = np.broadcast_to(np.eye(RANK), (*a.shape[:-2], RANK, RANK))
        np.testing.assert_allclose(np.swapaxes(a, -1, -2) @ a, unit, atol=1e-6)
        np.testing.assert_allclose(b @ np.swapaxes(b, -1, -2), unit, atol=1e-6)


def test_fed_sbs_client_descends_along_the_projected_gradient():
    """One SGD step from R = 0 moves R by -rate * scale * a^T G b^T, G the kernel's gradient."""
    batches = jax.tree.map(lambda leaf: leaf[:, :1], cohort(0, 1))
    algorithm = fed_sb(loss, LIKE, client_optimizer=SGD)
    _, _, (_, uplinks, _, _) = after(algorithm, vmap(), 1, weights=WEIGHTS[:1], batches=batches)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    first = jax.tree.map(lambda leaf: leaf[0, 0], batches)
    slope = jax.grad(lambda frozen: loss(zero, frozen, first))(FROZEN)
    for name, (a, b), r in zip(sorted(PARAMS), bases(LIKE, seed=0), uplinks, strict=True):
        gradient = jnp.swapaxes(a, -1, -2) @ slope[name]["kernel"] @ jnp.swapaxes(b, -1, -2)
        np.testing.assert_allclose(r[0], -0.02 * 0.5 * gradient, atol=1e-5)


def test_fed_sb_sends_rank_squared_values_a_product_in_both_directions():
    assert sizes("fed_sb") == (12 + 4 * 3 * RANK**2, 12 + 4 * 3 * RANK**2)


def test_fed_sb_refuses_a_rank_that_has_no_orthonormal_factors():
    like = {"adapter": {"a": jnp.zeros((3, 4)), "b": jnp.zeros((4, 9))}}
    with pytest.raises(ValueError, match="fed_sb: expected ranks of at most .* got 4 for 3 to 9"):
        fed_sb(loss, like, client_optimizer=SGD)
    with pytest.raises(ValueError, match="fed_sb: seed must be an integer"):
        fed_sb(loss, LIKE, client_optimizer=SGD, seed=-1)


# FLASC.


def test_flasc_with_all_entries_is_fed_avg():
    dense = flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE, up=1.0, down=1.0)
    plain = fed_avg(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE)
    close(after(dense, vmap())[0].params, after(plain, vmap())[0].params, 1e-6)


def test_flascs_clients_start_from_the_largest_entries_and_train_all():
    sparse = flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE, up=1.0, down=0.25)
    state, _, _ = after(sparse, vmap(), 1)
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


def test_flasc_sends_the_share_of_values_that_it_says_and_remembers_none():
    _, own, (downlink, uplinks, _, _) = played("flasc")
    count = round(0.25 * (A_VALUES + B_VALUES))
    assert downlink.params.payload.values.shape == (count,)
    assert uplinks.values.shape == (CLIENTS, count)
    assert not jax.tree.leaves(own)
    plain, _ = sizes("fed_avg")
    down = len(wire.dumps(jax.device_get(downlink)))
    assert 4 * count < down < plain / 2


@pytest.mark.parametrize("share", [0.0, 1.5, True])
def test_flasc_refuses_shares_out_of_range(share):
    with pytest.raises(ValueError, match="flasc: down must be above 0 and at most 1"):
        flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE, down=share)
