"""The simulated sum is the secure one, bit for bit, and the mean of what clients sent."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, fixed_point

from fedjax_llm import algorithms, chunked, from_arrays, scan, simulate, vmap
from fedjax_llm.aggregators import norm_bound, secure_mean
from fedjax_llm.data import Batching, masked_mean
from fedjax_llm.secure_aggregation import codec_setup, integers_of, mean_of, run_round
from tests.helpers.secure_rounds import ROUND, Lossy, seeded

CODEC = fixed_point(clip=0.5, bits=13, clients=6)  # 16 bits in a sum
LIKE = {"a": jnp.zeros((3, 2)), "b": jnp.zeros((), jnp.bfloat16)}


def loss(params, frozen, batch):
    return (params["a"] ** 2).sum() + params["b"] ** 2


@jax.jit
def encoded(keys, updates):
    return jax.vmap(lambda key, x: CODEC.encode(key, x, ())[0])(keys, updates)


def payloads_of(change=lambda rows: rows):
    """Messages of six clients, of which entries of some are beyond the clip."""
    rng = np.random.default_rng(0)
    a, b = change(0.3 * rng.normal(size=(6, 3, 2))), 0.3 * rng.normal(size=6)
    updates = {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.bfloat16)}
    return encoded(jr.split(jr.key(0), 6), updates)


def method(uplink=CODEC, **more):
    return algorithms.fed_avg(
        *(loss, LIKE),
        client_optimizer=optax.sgd(0.1),
        uplink=uplink,
        aggregate=secure_mean(),
        **more,
    )


ALGORITHM = method(server_optimizer=optax.sgd(1.0))


@jax.jit
def round_of(payloads, weights):
    """The partial and the new state of a round, by the method's own fold."""
    state = ALGORITHM.init(jr.key(0), LIKE)
    empty = ALGORITHM.gather.empty(state, 6)
    partial = ALGORITHM.gather.add(state, empty, payloads, weights)
    return partial, *ALGORITHM.server_update(jr.key(1), state, partial)


def test_the_simulated_round_is_the_secure_one_with_its_drop_outs():
    """Clients 1 and 4 are lost before and after their integers arrive."""
    payloads = payloads_of()
    weights = jnp.array([3.0, 0.0, 9.0, 1.0, 1.0, 5.0])  # claimed weights count for nothing
    partial, new, info = round_of(payloads, weights)

    setup = codec_setup(CODEC, LIKE, number=ROUND, degree=5, threshold=3)
    sent = [type(payloads)(packed) for packed in np.asarray(payloads.packed)]
    integers = {u: integers_of(CODEC, payload, LIKE) for u, payload in enumerate(sent)}
    lossy = Lossy({1: ("mask", "up"), 4: ("unmask", "up")})
    result = run_round(setup, integers, deliver=lossy, random=seeded(0))
    assert result.sum.survivors == (0, 2, 3, 4, 5)
    # a masked message has the bytes that the simulation counts
    assert setup.masked_bytes == payloads.packed.shape[1]

    np.testing.assert_array_equal(result.sum.total, partial.aggregate.integers)
    update, clipped = mean_of(CODEC, result.sum, LIKE)
    for ours, theirs in zip(jax.tree.leaves(new.params), jax.tree.leaves(update), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert int(info.clipped) == clipped > 0
    assert int(info.accepted) == 5

    # a reference in float64: the mean of the integers times the step
    total = sum(integers[u].astype(np.float64) for u in (0, 2, 3, 4, 5))[:7]
    np.testing.assert_allclose(
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(update)]),
        total / 5 * 0.5 / 4095,
        rtol=1e-6,
    )


def test_clients_that_failed_are_left_out_and_counted():
    def broken(rows):
        rows[1, 2, 0] = np.inf
        return rows

    payloads = payloads_of(broken)
    with pytest.raises(ValueError, match="integers_of: payload: expected that of a finite update"):
        integers_of(CODEC, jax.tree.map(lambda x: x[1], payloads), LIKE)
    partial, _, info = round_of(payloads, jnp.ones(6))
    without, _, _ = round_of(payloads_of(), jnp.ones(6).at[1].set(0.0))
    assert (int(info.failed), int(info.accepted)) == (1, 5)
    np.testing.assert_array_equal(partial.aggregate.integers, without.aggregate.integers)
    _, nobody, info = round_of(payloads, jnp.zeros(6))
    assert int(info.accepted) == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nobody.params))


@pytest.mark.slow
def test_a_run_is_the_same_to_the_bit_for_each_client_axis():
    """Integers add up in any order."""
    data = from_arrays({f"client {i}": {"x": jnp.ones((2, 3)) * i} for i in range(6)})
    fit = masked_mean(lambda params, frozen, rows: (rows["x"] @ params["w"] - 1) ** 2)
    params, found = {"w": jnp.zeros(3)}, []
    for axis in (vmap(), scan(), chunked(4)):
        algorithm = algorithms.fed_avg(
            *(fit, params),
            client_optimizer=optax.sgd(0.01),
            uplink=codec("error_feedback(fixed_point(clip=0.02, bits=8, clients=5))"),
            aggregate=secure_mean(),
        )
        rounds = simulate(
            *(algorithm, params, (), data, Batching(batch=1, steps=2)),
            rounds=3,
            clients=5,
            seed=0,
            client_axis=axis,
        )
        found.append([(r.state.params["w"], int(r.server_info.clipped)) for r in rounds])
    assert found[0][0][1] > 0
    for other in found[1:]:
        for (w, clipped), (same, also) in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(w, same)
            assert clipped == also


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: method(codec("eden(bits=1)")), "secure_mean: uplink: expected a codec whose mess"),
        (lambda: method(None), "secure_mean: uplink: expected a codec whose messages add up"),
        (
            lambda: method(prediction=0.5),
            "prediction: expected 0 with a rule that adds the integ",
        ),
        (
            lambda: method().gather.empty(method().init(jr.key(0), LIKE), 7),
            r"clients: expected at most 6.*got 7; fixed_point\(clients=7\) has more",
        ),
        (lambda: norm_bound(1.0, secure_mean()), "norm_bound: rule: expected a rule that combines"),
        (
            lambda: algorithms.shared.gather_updates(lambda s, u: u, secure_mean(), LIKE),
            "gather_updates: aggregate: expected a rule that combines decoded updates",
        ),
        (lambda: secure_mean().finish(()), "secure_mean: summing: expected a method that adds"),
        (
            lambda: codec_setup(codec("sign()"), LIKE, number=ROUND, degree=6, threshold=3),
            "codec_setup: codec: expected one whose messages add up as integers",
        ),
    ],
)
def test_what_cannot_be_summed_is_refused_by_name(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_buffered_rounds_are_refused():
    """A stale answer would be multiplied by a discount, which an integer cannot be."""
    assert method().add_stale is None
