"""DiLoCo and its relatives: lasting client optimizers, sparse messages, outer steps."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, wire
from fedjax_compression.sparsifiers import dct_top_k

from fedjax_llm import fed_avg
from fedjax_llm.algorithms.averaging import fed_sgd
from fedjax_llm.algorithms.low_communication import (
    cocktail_sgd,
    demo,
    diloco,
    muloco,
    sparse_loco,
    streaming_diloco,
)
from fedjax_llm.algorithms.low_communication.fragments import fragments
from tests.helpers.quadratics import loss, pulls, rounds

START = jnp.linspace(-1.0, 1.0, 32)
OPTIMA = 5 * jr.normal(jr.key(0), (4, 32))
WEIGHTS = jnp.array([4.0, 3.0, 2.0, 1.0])
SGD, ADAMW, ONE = optax.sgd(0.1), optax.adamw(0.03, weight_decay=0.1), optax.sgd(1.0)
FIVE = pulls(OPTIMA, steps=5)


def close(one, other, tolerance=1e-5):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=tolerance)


def alone(batches):
    return jax.tree.map(lambda leaf: leaf[:1], batches)


def params(algorithm, batches=FIVE, weights=WEIGHTS, number=3):
    return rounds(algorithm, START, batches, weights, number=number)[0].params


def test_diloco_with_an_outer_rate_of_one_is_fed_avg():
    plain = params(fed_avg(loss, START, client_optimizer=SGD))
    close(params(diloco(loss, START, client_optimizer=SGD, server_optimizer=ONE)), plain)


def test_diloco_with_one_inner_step_is_data_parallel_training():
    once = pulls(OPTIMA, steps=1)
    parallel = params(fed_sgd(loss, START, server_optimizer=SGD), once)
    close(params(diloco(loss, START, client_optimizer=SGD, server_optimizer=ONE), once), parallel)


@pytest.mark.slow
def test_one_worker_of_diloco_is_plain_training_over_all_its_rounds():
    """Checks the sign of the outer gradient, and that the client optimizer's state lasts."""
    algorithm = diloco(loss, START, client_optimizer=ADAMW, server_optimizer=ONE)
    reached = params(algorithm, alone(FIVE), WEIGHTS[:1], number=3)
    w, memory = START, ADAMW.init(START)
    for _ in range(15):
        step, memory = ADAMW.update(w - OPTIMA[0], memory, w)
        w = optax.apply_updates(w, step)
    close(reached, w)
    afresh = params(fed_avg(loss, START, client_optimizer=ADAMW), alone(FIVE), WEIGHTS[:1])
    assert float(jnp.abs(afresh - w).max()) > 1e-2


def test_dilocos_outer_step_is_nesterovs_as_published():
    algorithm = diloco(loss, START, client_optimizer=SGD)
    w, velocity = START, jnp.zeros(32)
    for _ in range(3):
        ends = OPTIMA + 0.9**5 * (w - OPTIMA)
        outer = w - (WEIGHTS[:, None] * ends).sum(axis=0) / WEIGHTS.sum()
        velocity = 0.9 * velocity + outer
        w = w - 0.7 * (outer + 0.9 * velocity)
    close(params(algorithm), w)


def test_a_client_that_is_not_drawn_keeps_its_optimizer_state():
    algorithm = diloco(loss, START, client_optimizer=ADAMW)
    drawn = jnp.array([[True, True, True, True], [True, True, True, False]])
    _, own = rounds(algorithm, START, FIVE, WEIGHTS, number=2, drawn=drawn)
    counts = own.work[0].count
    assert counts.tolist() == [10, 10, 10, 5]


@pytest.mark.slow
def test_sparse_locos_residual_and_messages_are_the_papers():
    """Against the pseudocode: what the server decodes is what the residual e loses."""
    algorithm = sparse_loco(
        loss, START, client_optimizer=SGD, fraction=0.25, chunk=16, decay=0.8, rate=0.5
    )
    state = algorithm.init(jr.key(0), START)
    own = algorithm.client_init(START)
    batches = jax.tree.map(lambda leaf: leaf[0], FIVE)
    e, w = jnp.zeros(32), START
    for number in range(3):
        sent, state = algorithm.broadcast(jr.key(0), state)
        up, own, _ = algorithm.client_update(jr.key(number), {}, sent, own, batches)
        partial = algorithm.gather.add(
            state,
            algorithm.gather.empty(state, 1),
            jax.tree.map(lambda leaf: leaf[None], up),
            jnp.ones(1),
        )
        decoded = partial.aggregate.total
        e = 0.8 * e + (OPTIMA[0] + 0.9**5 * (w - OPTIMA[0]) - w)
        largest = jnp.abs(e.reshape(2, 16)) >= jnp.sort(jnp.abs(e.reshape(2, 16)))[:, -4:-3]
        assert ((decoded != 0) == largest.reshape(-1)).all()
        assert len(jnp.unique(jnp.abs(decoded[:16]))) <= 3  # two magnitudes in a chunk, and zero
        e = e - decoded
        w = w + 0.5 * decoded
        state, _ = algorithm.server_update(jr.key(0), state, partial)
        close(own.uplink[0], e)
        close(state.params, w)


@pytest.mark.slow
def test_mulocos_inner_step_orthogonalises_stacked_matrices_and_leaves_the_rest_to_adam():
    """On a constant gradient, the first step of each, checked in a singular basis."""
    tree = {"blocks": jnp.zeros((2, 6, 4)), "embedding": jnp.zeros((5, 4))}
    slopes = {
        "blocks": jr.normal(jr.key(1), (2, 6, 4)),
        "embedding": jr.normal(jr.key(2), (5, 4)),
    }

    def linear(params, frozen, batch):
        return sum((params[name] * slopes[name]).sum() for name in slopes)

    algorithm = muloco(linear, tree, rate=0.1, server_optimizer=ONE)
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), tree))
    batch = jax.tree.map(lambda leaf: leaf[0], pulls(OPTIMA, steps=1))
    up, own, _ = algorithm.client_update(jr.key(0), {}, sent, algorithm.client_init(tree), batch)
    coded = algorithm.gather.add(
        algorithm.init(jr.key(0), tree),
        algorithm.gather.empty(None, 1),
        jax.tree.map(lambda leaf: leaf[None], up),
        jnp.ones(1),
    ).aggregate.total
    step = jax.tree.map(jnp.add, coded, own.uplink[0])  # the message plus the residual
    np.testing.assert_allclose(step["embedding"], -0.1 * jnp.sign(slopes["embedding"]), rtol=1e-3)
    for got, slope in zip(step["blocks"], slopes["blocks"], strict=True):
        u, _, v = jnp.linalg.svd(slope, full_matrices=False)
        aligned = u.T @ got @ v.T / -0.1
        # five Newton-Schulz iterations bring singular values to between .7 and 1.2
        assert ((jnp.diag(aligned) > 0.6) & (jnp.diag(aligned) < 1.3)).all()
        close(aligned - jnp.diag(jnp.diag(aligned)), jnp.zeros((4, 4)), 1e-2)


@pytest.mark.slow
def test_muloco_sends_two_bits_an_entry():
    tree = {"blocks": jnp.zeros((4, 64, 64)), "embedding": jnp.zeros((64, 64))}
    algorithm = muloco(lambda p, f, b: (p["blocks"] ** 2).sum(), tree)
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), tree))
    batch = jax.tree.map(lambda leaf: leaf[0], FIVE)
    up = jax.eval_shape(
        algorithm.client_update, jr.key(0), {}, sent, algorithm.client_init(tree), batch
    )[0]
    entries = 5 * 64 * 64
    assert entries / 4 < wire.nbytes(up) < 1.02 * entries / 4 + 12


@pytest.mark.slow
def test_cocktail_sgd_that_sends_every_entry_is_diloco_with_an_outer_rate_of_one():
    algorithm = cocktail_sgd(loss, START, client_optimizer=ADAMW, subset=1.0, fraction=1.0, bits=32)
    same = diloco(loss, START, client_optimizer=ADAMW, server_optimizer=ONE)
    close(params(algorithm), params(same))


@pytest.mark.slow
def test_cocktail_sgd_keeps_at_both_ends_what_it_did_not_send():
    """All entries in the subset, a quarter sent, against the authors' steps in NumPy."""
    algorithm = cocktail_sgd(loss, START, client_optimizer=SGD, subset=1.0, fraction=0.25, bits=32)
    shares, optima = np.asarray(WEIGHTS / WEIGHTS.sum()), np.asarray(OPTIMA)
    g, error = np.array(START), np.zeros(32)
    x, news = np.repeat(g[None], 4, axis=0), np.zeros(32)

    def largest(rows):
        bound = np.sort(np.abs(rows), axis=-1)[..., -8, None]
        return np.where(np.abs(rows) >= bound, rows, 0.0)

    for number in range(1, 5):
        x = x + news
        x = optima + 0.9**5 * (x - optima)
        sent = largest(x - g)
        x = x - sent
        offered = shares @ sent + error
        news = largest(offered)
        error = offered - news
        g = g + news
        state, own = rounds(algorithm, START, FIVE, WEIGHTS, number=number)
        close(state.params, g, 1e-4)
        close(state.error, error, 1e-4)
        close(own.params, x, 1e-4)


@pytest.mark.slow
def test_cocktail_sgds_clients_share_one_subset_a_round():
    algorithm = cocktail_sgd(loss, START, client_optimizer=SGD, subset=0.25, fraction=1.0, bits=32)
    subsets = set()
    for number in range(1, 4):
        _, own = rounds(algorithm, START, FIVE, WEIGHTS, number=number)
        sent_whole = jnp.abs(own.params - own.known) < 1e-5
        assert (sent_whole == sent_whole[0]).all()
        assert int(sent_whole[0].sum()) == 8
        subsets.add(tuple(np.flatnonzero(sent_whole[0]).tolist()))
    assert len(subsets) == 3


@pytest.mark.slow
def test_cocktail_sgds_messages_are_short_in_both_directions():
    tree = {"kernel": jr.normal(jr.key(4), (128, 100))}
    algorithm = cocktail_sgd(
        lambda p, f, batch: 0.5 * (p["kernel"] ** 2).sum(), tree, client_optimizer=SGD
    )
    state = algorithm.init(jr.key(0), tree)
    sent, _ = algorithm.broadcast(jr.key(0), state)
    batch = jax.tree.map(lambda leaf: leaf[0], FIVE)
    up, _, _ = algorithm.client_update(jr.key(0), {}, sent, algorithm.client_init(tree), batch)
    k = round(0.2 * round(0.1 * 12_800))
    bits = 4 * k + 16 * k / 128 + k * (2 + np.log2(5))  # values, scales, and Elias and Fano's gaps
    assert 12 + 4 * k / 8 < len(wire.dumps(up)) < 12 + bits / 8 + 60
    state, _ = rounds(algorithm, tree, FIVE, WEIGHTS, number=1)
    sent, _ = algorithm.broadcast(jr.key(0), state)
    assert 12 + 4 * k / 8 < len(wire.dumps(sent)) < 12 + bits / 8 + 60 + 8


@pytest.mark.slow
def test_one_client_of_demo_that_sends_everything_steps_along_the_gradients_sign():
    """Nothing of the momentum remains, so that each round's is its gradient."""
    algorithm = demo(loss, START, rate=0.05, fraction=1.0, block=16, decay=0.9)
    w = START
    for number in range(1, 4):
        w = w - 0.05 * jnp.sign(w - OPTIMA[0])
        close(params(algorithm, alone(FIVE), WEIGHTS[:1], number=number), w)


@pytest.mark.slow
def test_demos_momentum_keeps_what_was_not_sent():
    algorithm = demo(loss, START, rate=0.05, fraction=1 / 16, block=16, decay=0.9)
    state, own = rounds(algorithm, START, alone(FIVE), WEIGHTS[:1], number=1)
    frequencies, places = jnp.arange(16)[:, None], jnp.arange(16)[None]
    basis = jnp.cos(jnp.pi * (2 * places + 1) * frequencies / 32) * jnp.sqrt(2 / 16)
    basis = basis.at[0].divide(jnp.sqrt(2.0))
    momentum = (OPTIMA[0] - START).reshape(2, 16)
    coefficients = momentum @ basis.T
    largest = jnp.abs(coefficients) == jnp.abs(coefficients).max(axis=1, keepdims=True)
    sent = jnp.where(largest, coefficients, 0.0) @ basis
    close(own.uplink[0], (momentum - sent).reshape(-1), 1e-4)
    close(state.params, START + 0.05 * jnp.sign(sent).reshape(-1))


@pytest.mark.slow
@pytest.mark.parametrize("over_senders", [False, True])
def test_demos_mean_is_over_all_clients_or_over_those_that_sent_a_coefficient(over_senders):
    """Each client sends two of 32 coefficients, and few clients send the same."""
    algorithm = demo(
        loss, START, rate=1.0, fraction=1 / 16, block=16, decay=0.9, over_senders=over_senders
    )
    codec = dct_top_k(fraction=1 / 16, decay=0.0, block=16)
    updates = jnp.stack([OPTIMA[0], OPTIMA[1], OPTIMA[1] + 0.1 * OPTIMA[0]])
    weights = np.array([1.0, 2.0, 4.0])
    payloads = [codec.encode(jr.key(0), u, codec.init(u))[0] for u in updates]
    uplinks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *payloads)
    state = algorithm.init(jr.key(0), START)
    partial = algorithm.gather.add(
        state, algorithm.gather.empty(state, 3), uplinks, jnp.asarray(weights)
    )
    new, _ = algorithm.server_update(jr.key(0), state, partial)
    frequencies, places = np.arange(16)[:, None], np.arange(16)[None]
    basis = np.cos(np.pi * (2 * places + 1) * frequencies / 32) * np.sqrt(2 / 16)
    basis[0] /= np.sqrt(2)
    total, count = np.zeros((2, 16)), np.zeros((2, 16))
    for weight, update in zip(weights, updates, strict=True):
        coefficients = np.asarray(update, np.float64).reshape(2, 16) @ basis.T
        for row, column in enumerate(np.abs(coefficients).argmax(axis=1)):
            total[row, column] += weight * coefficients[row, column]
            count[row, column] += weight
    assert len(set(count.ravel().tolist()) - {0.0, 7.0}) >= 2  # clients sent different coefficients
    mean = total / np.maximum(count, 1e-9) if over_senders else total / weights.sum()
    moved = np.asarray(new.params - START).reshape(2, 16)
    clear = np.abs(mean @ basis) > 1e-4
    np.testing.assert_array_equal(moved[clear], np.sign(mean @ basis)[clear])
    assert clear.mean() > 0.9


def test_streaming_diloco_of_one_fragment_is_diloco():
    outer = optax.sgd(0.7, momentum=0.9, nesterov=True)
    common = {"client_optimizer": ADAMW, "server_optimizer": outer}
    algorithm = streaming_diloco(loss, START, fragments_of=1, mixing=0.0, **common)
    close(params(algorithm, number=4), params(diloco(loss, START, **common), number=4))


@pytest.mark.slow
@pytest.mark.parametrize(("count", "overlap", "mixing"), [(2, 0, 0.5), (3, 2, 0.25), (1, 4, 0.5)])
def test_streaming_diloco_is_the_papers_algorithm_step_by_step(count, overlap, mixing):
    """Algorithm 2 in NumPy, as one loop over local steps with an offset for each fragment."""
    algorithm = streaming_diloco(
        loss,
        START,
        client_optimizer=SGD,
        fragments_of=count,
        overlap=overlap,
        mixing=mixing,
    )
    number, shares = 7, np.asarray(WEIGHTS / WEIGHTS.sum())
    state, own = rounds(algorithm, START, FIVE, WEIGHTS, number=number)
    between, every = 5, 5 * count
    mine = np.repeat(np.asarray(START)[None], 4, axis=0)
    outer, velocity = np.array(START), np.zeros(32)
    waiting = {}
    for t in range(1, number * between + 1):
        mine = mine - 0.1 * (mine - np.asarray(OPTIMA))
        for p in range(count):
            offset = (p + 1) * between
            places = np.arange(p, 32, count)
            # a round's message arrives in the next round, with an overlap of 0 at its start
            if t >= offset and (t - offset) % every == 0:
                waiting[p] = shares @ (outer[places] - mine[:, places]), t
            if p in waiting and t == waiting[p][1] + overlap:
                gradient, _ = waiting.pop(p)
                velocity[places] = 0.9 * velocity[places] + gradient
                outer[places] -= 0.4 * (gradient + 0.9 * velocity[places])
                mine[:, places] = mixing * mine[:, places] + (1 - mixing) * outer[places]
    for p, (gradient, _) in waiting.items():  # the server has stepped; the message is under way
        places = np.arange(p, 32, count)
        velocity[places] = 0.9 * velocity[places] + gradient
        outer[places] -= 0.4 * (gradient + 0.9 * velocity[places])
    if overlap == 0:  # the last round's fragment is not mixed in yet
        p = (number - 1) % count
        places = np.arange(p, 32, count)
        left = np.asarray(own.params)[:, places]
        close(mixing * left + (1 - mixing) * outer[places], mine[:, places])
        mine[:, places] = left
    close(state.params, outer)
    close(own.params, mine)


def test_with_mixing_one_clients_train_alone():
    algorithm = streaming_diloco(loss, START, client_optimizer=SGD, mixing=1.0)
    _, own = rounds(algorithm, START, FIVE, WEIGHTS, number=6)
    close(own.params, OPTIMA + 0.9**30 * (START - OPTIMA))


@pytest.mark.slow
def test_only_the_due_fragment_is_sent():
    tree = {"blocks": jnp.zeros((12, 8, 16)), "embedding": jnp.zeros((40, 8)), "one": jnp.zeros(())}
    uplink = codec("stochastic_quantize(bits=4)")
    algorithm = streaming_diloco(
        lambda params, frozen, batch: 0.5 * (params["blocks"] ** 2).sum(),
        tree,
        client_optimizer=SGD,
        fragments_of=4,
        uplink=uplink,
    )
    sent, _ = algorithm.broadcast(jr.key(0), algorithm.init(jr.key(0), tree))
    batches = jax.tree.map(lambda leaf: leaf[0], FIVE)
    own = algorithm.client_init(tree)
    up, _, _ = jax.eval_shape(algorithm.client_update, jr.key(0), {}, sent, own, batches)
    entries = 3 * 8 * 16 + 10 * 8 + 1
    assert wire.nbytes(sent) == 12 + 4 * entries + 4
    assert wire.nbytes(up) == 12 + (entries + 1) // 2 + 3 * 8


def test_fragments_are_interleaved_and_put_back_in_place():
    tree = {"layers": jnp.arange(10.0).reshape(5, 2), "scalar": jnp.array(7.0)}
    cut = fragments(3)
    assert cut.take(tree, 1)["layers"].tolist() == [[2, 3], [8, 9]]
    assert cut.take(tree, 2) == {"layers": pytest.approx(np.array([[4, 5], [0, 0]])), "scalar": 0}
    back = tree
    for number in range(3):
        back = cut.put(back, number, jax.tree.map(lambda x: x + 1, cut.take(tree, number)))
    close(back["layers"], tree["layers"] + 1)
    assert float(back["scalar"]) == 8.0


def test_a_client_that_missed_a_message_of_a_stream_is_counted_as_failed():
    algorithm = streaming_diloco(loss, START, client_optimizer=SGD)
    drawn = jnp.ones((6, 4), bool).at[2, 3].set(False)
    state, own = rounds(algorithm, START, FIVE, WEIGHTS, number=6, drawn=drawn)
    assert own.downlink.messages.tolist() == [6, 6, 6, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, own)))
    others, _ = rounds(algorithm, START, FIVE, WEIGHTS.at[3].set(0), number=6)
    assert not np.allclose(state.params, others.params)  # its first two rounds counted


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: demo(loss, START, rate=0.0), "demo: rate: expected a number above 0, got 0.0"),
        (
            lambda: streaming_diloco(loss, START, client_optimizer=SGD, fragments_of=0),
            "streaming_diloco: fragments_of: expected an integer at least 1, got 0",
        ),
        (
            lambda: streaming_diloco(loss, START, client_optimizer=SGD, mixing=1.5),
            "streaming_diloco: mixing: expected a number at least 0 and at most 1, got 1.5",
        ),
        (
            lambda: params(streaming_diloco(loss, START, client_optimizer=SGD, overlap=6)),
            "streaming_diloco: overlap: expected at most 5, the steps of a round, got 6",
        ),
        (
            lambda: cocktail_sgd(loss, START, client_optimizer=SGD, bits=3),
            "cocktail_sgd: bits: expected 2, 4, 8 or 32, got 3",
        ),
        (
            lambda: cocktail_sgd(loss, START, client_optimizer=SGD, subset=0.0),
            "cocktail_sgd: subset: expected a number above 0",
        ),
        (lambda: muloco(loss, START), "muloco: like: expected stacked matrices"),
        (
            lambda: sparse_loco(loss, START, client_optimizer=SGD, rate=-1.0),
            "sparse_loco: rate: expected a number above 0, got -1.0",
        ),
        (
            lambda: sparse_loco(loss, START, client_optimizer=SGD, decay=0.0),
            "error_feedback: decay: expected a number above 0",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(factory, message):
    with pytest.raises(ValueError, match=message):
        factory()
