"""Methods over LoRA's factors: what is exact is equal, what is not is measured, bytes by hand."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, wire

from fedjax_llm.algorithms import (
    fed_avg,
    fed_sb,
    fedex_lora,
    fedsa_lora,
    ffa_lora,
    flasc,
    flexlora,
    flora,
    hetlora,
    rolora,
)
from fedjax_llm.algorithms.fed_sb import bases, directions, first_step
from fedjax_llm.base import base_of
from fedjax_llm.ledger import entries, lengths, total_bytes
from fedjax_llm.local import local_steps
from fedjax_llm.simulation import chunked, scan, vmap
from fedjax_llm.simulation.simulate import round_program

from .low_rank_task import (
    A_VALUES,
    ADAM,
    B_VALUES,
    CLIENTS,
    COHORT,
    FROZEN,
    LIKE,
    ONE,
    PARAMS,
    RANK,
    SCALE,
    SGD,
    STEPS,
    TABLE,
    WEIGHTS,
    after,
    cohort,
    error,
    kernels,
    loss,
    mean_of_products,
    play,
    products,
    start,
)


@functools.cache
def program_of(name, axis="vmap"):
    axes = {"vmap": vmap(), "scan": scan(), "chunked": chunked(3)}
    algorithm = TABLE[name](loss)
    return algorithm, round_program(algorithm, axes[axis])


@functools.cache
def played(name, axis="vmap"):
    algorithm, one = program_of(name, axis)
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
    listed = entries(1, range(CLIENTS), len(wire.dumps(downlink)), lengths(uplinks))
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
    algorithm, one = program_of(name)
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
    algorithm, one = program_of(name)
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
    algorithm, one = program_of(name)
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
    listed = entries(1, range(CLIENTS), len(wire.dumps(downlink)), lengths(uplinks))
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
    "rolora": lambda like: rolora(loss, like, client_optimizer=SGD),
    "fedex_lora": lambda like: fedex_lora(loss, like, client_optimizer=SGD, **COHORT),
    "flora": lambda like: flora(loss, like, client_optimizer=SGD, **COHORT),
    "flexlora": lambda like: flexlora(loss, like, client_optimizer=SGD, ranks=(1,)),
    "hetlora": lambda like: hetlora(loss, like, client_optimizer=SGD, ranks=(1,)),
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
    algorithm, one = program_of("fedsa_lora")
    state, own, _ = play(one, *start(algorithm), range(1))
    _, later, _ = play(one, state, own, [1])
    second = jax.tree.map(lambda leaf: leaf[1], own)
    batches = jax.tree.map(lambda leaf: leaf[1], cohort(1))
    expected, _ = local_steps(loss, SGD)(algorithm.personal(state.params, second), FROZEN, batches)
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
    with pytest.raises(ValueError, match=r"fed_sb: expected ranks of at most .* got 4 for 3 to 9"):
        fed_sb(loss, like, client_optimizer=SGD)
    with pytest.raises(ValueError, match="fed_sb: seed must be None or an integer"):
        fed_sb(loss, LIKE, client_optimizer=SGD, seed=-1)


def kernel_gradient(batches):
    """Of the base alone, over all targets of one client's batches."""
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    share = batches.mask.sum(axis=1) / batches.mask.sum()
    return jax.grad(
        lambda frozen: sum(
            share[step] * loss(zero, frozen, jax.tree.map(lambda leaf, s=step: leaf[s], batches))
            for step in range(STEPS)
        )
    )(FROZEN)


def test_a_first_step_is_adams_as_near_as_its_rank_allows():
    batches = jax.tree.map(lambda leaf: leaf[-1], cohort(0))  # whose last step is masked out
    batches = batches._replace(y=batches.y.at[-1].set(jnp.nan))
    got = first_step(loss, PARAMS, FROZEN, batches, rate=0.1, scale=0.5)
    whole = kernel_gradient(jax.tree.map(lambda leaf: leaf[-1], cohort(0)))
    for name, found in products(got).items():
        step = -0.1 * np.sign(np.asarray(whole[name]["kernel"], np.float64))
        u, s, v = np.linalg.svd(step, full_matrices=False)
        nearest = u[..., :RANK] * s[..., None, :RANK] @ v[..., :RANK, :]
        np.testing.assert_allclose(0.5 * found, nearest, atol=1e-5)
        assert (s[..., RANK] > 1e-2).all()


def test_fed_sb_without_a_seed_goes_on_from_the_starts_product_within_its_factors():
    algorithm = fed_sb(loss, LIKE, client_optimizer=SGD, seed=None)
    held = directions(PARAMS)
    state, own = start(algorithm)
    assert error(products(state.params), products(PARAMS)) < 1e-6
    program = round_program(algorithm, vmap())
    for number in range(2):
        before = products(state.params)
        state, own, (_, uplinks, _, _) = play(program, state, own, [number])
        shares = WEIGHTS / WEIGHTS.sum()
        for name, (a, b), r in zip(sorted(PARAMS), held, uplinks, strict=True):
            mean = sum(share * a @ r[k] @ b for k, share in enumerate(shares))
            np.testing.assert_allclose(products(state.params)[name], before[name] + mean, atol=1e-5)
            assert float(jnp.abs(mean).max()) > 1e-3


@pytest.mark.parametrize("name", ["rate", "scale"])
def test_a_first_step_of_no_length_is_refused(name):
    given = {"rate": 0.1, "scale": 1.0, name: 0.0}
    with pytest.raises(ValueError, match=f"first_step: {name} must be above 0"):
        first_step(loss, PARAMS, FROZEN, cohort(0), **given)


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


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_flasc_refuses_shares_out_of_range(share):
    with pytest.raises(ValueError, match="flasc: down must be above 0 and at most 1"):
        flasc(loss, LIKE, client_optimizer=SGD, server_optimizer=ONE, down=share)


# RoLoRA.


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


def test_roloras_second_round_trains_a_as_one_with_b_frozen_would():
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


def test_roloras_halves_alone_travel_and_clients_hold_the_servers_parameters():
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


# What needs every message.


@pytest.mark.parametrize("name", ["rolora", "fedex_lora", "flora"])
def test_a_client_that_missed_a_message_is_counted_as_failed_ever_after(name):
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


def test_fedexs_model_is_the_mean_of_the_clients_models_where_fed_its_is_not():
    rate = optax.sgd(0.1)
    exact = models(trained_alone(optimizer=rate), FROZEN)
    apart, _, _ = after(fed_avg(loss, LIKE, client_optimizer=rate), vmap(), 1)
    state, _, _ = after(fedex_lora(loss, LIKE, client_optimizer=rate, **COHORT), vmap(), 1)
    close(state.params, apart.params, 1e-6)
    assert error(kernels(state.params, base_of(state, FROZEN)), exact) < 1e-6
    assert error(kernels(apart.params, FROZEN), exact) > 1e-4


def test_fedex_stays_exact_in_the_next_round_as_the_clients_base_is_the_servers():
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


def test_a_residual_is_added_once_where_the_round_after_it_fails():
    algorithm, program = program_of("fedex_lora")
    state, own, _ = play(program, *start(algorithm), range(2))
    nothing = cohort(5)._replace(y=jnp.full((CLIENTS, STEPS, 4, 9), jnp.nan))
    state, own, _ = play(program, state, own, [5], nothing)
    state, own, _ = play(program, state, own, [6], nothing)
    close(jax.tree.map(lambda leaf: leaf[0], own.held.base), state.base, 1e-6)


# FLoRA.


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
    # with b = 0 at first, one SGD step moves b alone: by the gradient at the servers' model
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


@pytest.mark.parametrize("factory", [fedex_lora, flora])
def test_methods_that_change_the_base_refuse_what_they_cannot_be_exact_for(factory):
    who = factory.__name__
    leaf = jnp.zeros((3, 3))
    uneven = {"a": {"rank1": leaf[:, :1]}, "b": {"rank1": leaf[:1]}}
    cases = [
        (LIKE, {"scale": 0.0}, "scale must be above 0"),
        (LIKE, {"clients": 0}, "clients must be an integer of at least 1"),
        (LIKE, {"uplink": codec("ef21(top_k(fraction=0.5))")}, "receiver keeps no memory, as the"),
        ({"adapter": uneven}, {}, "got adapter/rank1: layers of different ranks"),
    ]
    for like, change, message in cases:
        with pytest.raises(ValueError, match=f"{who}: .*{message}"):
            factory(loss, like, client_optimizer=SGD, **{**COHORT, **change})
    algorithm = factory(loss, LIKE, client_optimizer=SGD, **COHORT)
    with pytest.raises(ValueError, match=f"{who}: expected a cohort of 4 clients, got 3"):
        algorithm.gather.empty(algorithm.init(jr.key(0), PARAMS), 3)


# FlexLoRA and HetLoRA: clients of different ranks.


def factors_of(uplinks, ranks):
    """What clients sent, each of its own rank, from the bytes alone."""
    found = []
    for row, rank in enumerate(ranks):
        data = np.asarray(uplinks.values[row])[: rank * (2 * 6 + 6 + 2 * 6 + 9)]
        rows = data.reshape(rank, -1)
        cuts = np.split(rows, np.cumsum([12, 12, 6]), axis=1)
        found.append(
            {
                "deep": {
                    "adapter": {
                        "a": np.moveaxis(cuts[0].reshape(rank, 2, 6), 0, -1),
                        "b": np.moveaxis(cuts[1].reshape(rank, 2, 6), 0, -2),
                    }
                },
                "wide": {
                    "adapter": {
                        "a": np.moveaxis(cuts[2].reshape(rank, 6), 0, -1),
                        "b": cuts[3].reshape(rank, 9),
                    }
                },
            }
        )
    return found


def first_ranks(name):
    algorithm, program = program_of(name)
    state, own, (_, uplinks, _, _) = play(program, *start(algorithm), [0])
    ranks = own.rank.tolist()
    assert set(ranks) == {1, 2}
    assert uplinks.length.tolist() == [rank * 39 for rank in ranks]
    return state, ranks, factors_of(uplinks, ranks)


def test_flexloras_error_is_the_eckart_young_tail_of_the_exact_mean():
    state, _, sent = first_ranks("flexlora")
    shares = np.asarray(WEIGHTS) / float(WEIGHTS.sum())
    each = [products(one) for one in sent]
    for name, got in products(state.params).items():
        mean = sum(share * one[name] for share, one in zip(shares, each, strict=True))
        tail = np.linalg.svd(mean, compute_uv=False)[..., RANK:]
        np.testing.assert_allclose(
            ((mean - got) ** 2).sum(axis=(-2, -1)), (tail**2).sum(axis=-1), rtol=1e-3
        )
        assert (tail[..., 0] > 1e-4).all()
        lower = state.params[name]["adapter"]
        first = np.asarray(lower["a"])[..., :1] @ np.asarray(lower["b"])[..., :1, :]
        tail = np.linalg.svd(mean, compute_uv=False)[..., 1:]
        np.testing.assert_allclose(
            ((mean - first) ** 2).sum(axis=(-2, -1)), (tail**2).sum(axis=-1), rtol=1e-3
        )


@pytest.mark.parametrize("name", ["flexlora", "hetlora"])
def test_a_client_of_a_lower_rank_sends_fewer_bytes_and_keeps_its_rank(name):
    _, own, (downlink, uplinks, _, _) = jax.device_get(played(name))
    algorithm, program = program_of(name)
    _, first, _ = play(program, *start(algorithm), [0])
    assert first.rank.tolist() == own.rank.tolist()
    for row, rank in enumerate(own.rank.tolist()):
        sent = jax.tree.map(lambda leaf, row=row: leaf[row], uplinks)
        assert len(wire.dumps(sent)) == 12 + 4 + 4 * rank * (2 * 6 + 6 + 2 * 6 + 9)
    assert len(wire.dumps(downlink)) == 12 + 4 * (A_VALUES + B_VALUES)


def test_a_lower_rank_trains_the_first_factors_alone():
    _, ranks, sent = first_ranks("hetlora")
    row = ranks.index(1)
    low = {
        name: {
            "adapter": {"a": pair["adapter"]["a"][..., :1], "b": pair["adapter"]["b"][..., :1, :]}
        }
        for name, pair in PARAMS.items()
    }
    batches = jax.tree.map(lambda leaf: leaf[row], cohort(0))
    expected, _ = local_steps(loss, SGD)(low, FROZEN, batches)
    close(jax.tree.map(jnp.asarray, sent[row]), expected, 1e-6)


@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize("over_contributors", [False, True])
def test_hetloras_mean_is_over_all_or_over_those_who_hold_a_rank(over_contributors, by_norm):
    algorithm = hetlora(
        loss,
        LIKE,
        client_optimizer=SGD,
        ranks=(1, 2),
        over_contributors=over_contributors,
        by_norm=by_norm,
    )
    state, own, (_, uplinks, _, _) = after(algorithm, vmap(), 1)
    ranks = own.rank.tolist()
    weights = np.asarray(WEIGHTS, np.float64)
    sent = factors_of(uplinks, ranks)
    if by_norm:
        weights = weights * [
            np.sqrt(sum((matrix**2).sum() for matrix in products(one).values())) for one in sent
        ]
    holders = np.array(ranks) == 2
    for index, holding in ((0, np.ones(CLIENTS, bool)), (1, holders)):
        divisor = weights[holding].sum() if over_contributors else weights.sum()
        for name in PARAMS:
            a = sum(
                weights[k] * sent[k][name]["adapter"]["a"][..., index]
                for k in np.flatnonzero(holding)
            )
            got = state.params[name]["adapter"]["a"][..., index]
            np.testing.assert_allclose(got, a / divisor, rtol=1e-4, atol=1e-6)


def test_what_no_client_holds_stays_over_contributors_and_shrinks_to_zero_over_all():
    for over_contributors in (True, False):
        algorithm = hetlora(
            loss,
            LIKE,
            client_optimizer=SGD,
            ranks=(1,),
            over_contributors=over_contributors,
        )
        state, _, _ = after(algorithm, vmap(), 1)
        held = PARAMS["wide"]["adapter"]["b"][1]
        expected = held if over_contributors else jnp.zeros_like(held)
        close(state.params["wide"]["adapter"]["b"][1], expected, 1e-7)


@pytest.mark.parametrize("factory", [flexlora, hetlora])
@pytest.mark.parametrize("ranks", [(), (0,), (1, 3), "1,3", "two"])
def test_ranks_that_the_adapter_does_not_have_are_refused(factory, ranks):
    with pytest.raises(ValueError, match=f"{factory.__name__}: ranks must be integers from 1 to 2"):
        factory(loss, LIKE, client_optimizer=SGD, ranks=ranks)
