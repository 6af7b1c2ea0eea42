"""FlexLoRA, HetLoRA and FLoRA with ranks: clients of different ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import wire

from fedjax_llm.algorithms.lora import flexlora, flora_ranks, hetlora
from fedjax_llm.algorithms.shared.base_changes import base_of
from fedjax_llm.client_training import local_steps
from tests.helpers.algorithm_table import close, played
from tests.helpers.lora_rounds import after, play, program_of, start
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
    WEIGHTS,
    cohort,
    loss,
    products,
)

# FlexLoRA and HetLoRA: clients of different ranks.


def factors_of(uplinks, ranks):
    """Each client's factors of its rank, read from the values it sent."""
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_a_client_of_a_lower_rank_trains_only_the_first_factors():
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


@pytest.mark.slow
@pytest.mark.parametrize("by_norm", [False, True])
@pytest.mark.parametrize("over_contributors", [False, True])
def test_hetloras_mean_is_over_all_clients_or_those_with_the_rank(over_contributors, by_norm):
    algorithm = hetlora(
        loss,
        LIKE,
        client_optimizer=SGD,
        ranks=(1, 2),
        over_contributors=over_contributors,
        by_norm=by_norm,
    )
    state, own, (_, uplinks, _, _) = after(algorithm, 1)
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


@pytest.mark.slow
def test_a_rank_that_no_client_has_is_kept_over_contributors_and_zero_over_all():
    for over_contributors in (True, False):
        algorithm = hetlora(
            loss,
            LIKE,
            client_optimizer=SGD,
            ranks=(1,),
            over_contributors=over_contributors,
        )
        state, _, _ = after(algorithm, 1)
        held = PARAMS["wide"]["adapter"]["b"][1]
        expected = held if over_contributors else jnp.zeros_like(held)
        close(state.params["wide"]["adapter"]["b"][1], expected, 1e-7)


# FLoRA with ranks.


def flora_round(batches=None):
    """The program, the server's states before and after a round, the clients', what was sent."""
    algorithm, program = program_of("flora_ranks")
    before, own = start(algorithm)
    return program, before, *play(program, before, own, [0], batches)


@pytest.mark.slow
def test_floras_stack_of_several_ranks_is_the_weighted_mean_of_the_products():
    program, before, state, own, (_, uplinks, _, _) = flora_round()
    ranks = own.rank.tolist()
    assert set(ranks) == {1, 2}
    shares = np.asarray(WEIGHTS, np.float64) / float(WEIGHTS.sum())
    each = [products(one) for one in factors_of(uplinks, ranks)]
    assert int(state.stack.length) == sum(ranks) * 39  # no more than the clients have
    one = jax.tree.map(lambda leaf: leaf[None], state.stack)
    stack = products(factors_of(one, [sum(ranks)])[0])
    for name in PARAMS:
        mean = sum(share * one[name] for share, one in zip(shares, each, strict=True))
        np.testing.assert_allclose(stack[name], mean, atol=1e-6)
        change = state.base[name]["kernel"] - before.base[name]["kernel"]
        np.testing.assert_allclose(change, SCALE * mean, atol=1e-6)
        assert np.abs(mean).max() > 1e-3
    # the next round brings every client to the server's base, and keeps the ranks
    after_first = state.base
    _, own, (downlink, uplinks, _, _) = play(program, state, own, [1])
    assert own.rank.tolist() == ranks
    assert len(wire.dumps(jax.device_get(downlink))) == 12 + 4 + 4 + 4 * sum(ranks) * 39
    for row, rank in enumerate(ranks):
        close(jax.tree.map(lambda leaf, row=row: leaf[row], own.held.base), after_first, 1e-6)
        sent = jax.tree.map(lambda leaf, row=row: leaf[row], jax.device_get(uplinks))
        assert len(wire.dumps(sent)) == 12 + 4 + 4 * rank * 39


@pytest.mark.slow
def test_a_client_of_flora_trains_fresh_factors_of_its_rank():
    """One SGD step moves only `b`, from zero along the gradient at the base."""
    one = jax.tree.map(lambda leaf: leaf[:, :1], cohort(0))
    _, before, _, own, (_, uplinks, _, _) = flora_round(one)
    frozen = base_of(before, FROZEN)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    ranks = own.rank.tolist()
    for row, (rank, sent) in enumerate(zip(ranks, factors_of(uplinks, ranks), strict=True)):
        batch = jax.tree.map(lambda leaf, row=row: leaf[row, 0], one)
        slope = jax.grad(lambda frozen, batch=batch: loss(zero, frozen, batch))(frozen)
        for name in PARAMS:
            a, b = (sent[name]["adapter"][half] for half in "ab")
            assert a.shape[-1] == b.shape[-2] == rank
            moved = -0.02 * SCALE * np.swapaxes(a, -1, -2) @ np.asarray(slope[name]["kernel"])
            np.testing.assert_allclose(b, moved, atol=1e-5)


def test_a_failed_client_has_no_rank_in_floras_stack():
    good = cohort(0)
    _, _, state, own, (*_, watched) = flora_round(good._replace(y=good.y.at[1].set(jnp.nan)))
    assert (int(watched.accepted), int(watched.failed)) == (CLIENTS - 1, 1)
    assert int(state.stack.length) == 39 * sum(np.delete(np.asarray(own.rank), 1))


def of_cohort(*args, **given):
    return flora_ranks(*args, **COHORT, **given)


@pytest.mark.parametrize(
    ("name", "factory"), [("flexlora", flexlora), ("hetlora", hetlora), ("flora_ranks", of_cohort)]
)
@pytest.mark.parametrize("ranks", [(), (0,), (1, 3), "1,3", "two"])
def test_ranks_out_of_range_are_refused(name, factory, ranks):
    with pytest.raises(ValueError, match=f"{name}: ranks: expected integers from 1 to 2"):
        factory(loss, LIKE, client_optimizer=SGD, ranks=ranks)
