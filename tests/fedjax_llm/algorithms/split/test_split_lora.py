"""A model in two halves: gradients are those of the whole model, bytes those that were sent."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import codec, wire

from fedjax_llm import DecoderConfig, fed_avg, language_model, lora
from fedjax_llm.adapters import full, prompt_tuning
from fedjax_llm.algorithms.averaging import fed_sgd
from fedjax_llm.algorithms.split import split_lora
from fedjax_llm.data import Batch, Batching
from fedjax_llm.ledger import total_bytes
from fedjax_llm.schedules import over_rounds
from fedjax_llm.simulation import simulate, simulate_split, split_entries
from fedjax_llm.tasks import Asked, halves

LAYERS, WIDTH, SEQ, ROWS, STEPS, CLIENTS = 3, 16, 8, 2, 2, 3
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
}
A_AND_B = 2 * (4 * (16 + 16) + 3 * (16 + 24))  # rank 2: q, k, v, o; gate, up, down of a layer
SLIDING = {
    "sliding_window": 3,
    "layer_types": ("sliding_attention", "full_attention", "sliding_attention"),
}
RATE = optax.sgd(0.5)
BATCHING = Batching(seq=SEQ, batch=ROWS, steps=STEPS)


def moved(params):
    """LoRA whose `b` is not zero, so that `a` has a gradient."""
    keys = iter(jr.split(jr.key(1), 99))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jr.normal(next(keys), leaf.shape), params)


@pytest.fixture(scope="module")
def task():
    task = language_model(DecoderConfig(**SIZES), key=jr.key(0), adapter=lora(rank=2))
    return task._replace(params=moved(task.params))


def method(task, **flags):
    given = {"client_optimizer": RATE, "cut": 1, **flags}
    return split_lora(
        task.params, halves=lambda cut: halves(task, LAYERS, cut=cut), vocab=256, **given
    )


def federation(task, corpus):
    return task.params, task.frozen, corpus, BATCHING


@pytest.fixture(scope="module")
def rounds(task, corpus):
    found = simulate_split(
        method(task), *federation(task, corpus), rounds=2, clients=CLIENTS, seed=0
    )
    return list(found)


def packed_batch():
    tokens = jr.randint(jr.key(2), (ROWS, SEQ + 1), 0, 256)
    segments = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 2, 2, 2, 3, 3, 3]])
    mask = (segments > 0) & (jnp.arange(SEQ) % 3 > 0)
    return Batch(tokens[:, :-1], tokens[:, 1:], mask, segments, None)


@pytest.mark.slow
@pytest.mark.parametrize(("cut", "kind"), [(1, {}), (2, SLIDING)])
def test_the_gradients_of_both_halves_are_those_of_the_whole(kind, cut):
    task = language_model(DecoderConfig(**SIZES, **kind), key=jr.key(0), adapter=lora(rank=2))
    params, batch = moved(task.params), packed_batch()
    value, whole = jax.value_and_grad(task.loss)(params, task.frozen, batch)
    part, join, lower, upper = halves(task, LAYERS, cut=cut)
    asked = Asked(batch.targets, batch.mask, batch.segments, batch.positions)

    def through(below, above):
        return upper(above, task.frozen, lower(below, task.frozen, batch), asked)

    got, cohort_chunks = jax.value_and_grad(through, (0, 1))(*part(params))
    np.testing.assert_allclose(got, value, rtol=1e-6)
    assert jax.tree.structure(join(*cohort_chunks)) == jax.tree.structure(whole)
    for one, other in zip(
        jax.tree.leaves(join(*cohort_chunks)), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert float(jnp.abs(other).max()) > 1e-5


@pytest.mark.slow
def test_one_step_of_sgd_is_that_of_fed_sgd_on_the_whole_model(task, corpus):
    one = Batching(seq=SEQ, batch=ROWS, steps=1)
    whole = fed_sgd(task.loss, task.params, server_optimizer=RATE)
    given = task.params, task.frozen, corpus, one
    (split,) = simulate_split(method(task), *given, rounds=1, clients=CLIENTS, seed=0)
    (plain,) = simulate(whole, *given, rounds=1, clients=CLIENTS, seed=0)
    assert split.clients.tolist() == plain.clients.tolist()
    np.testing.assert_allclose(split.client_info.loss, plain.client_info.loss, rtol=1e-5)
    for got, expected in zip(
        jax.tree.leaves(split.state.params), jax.tree.leaves(plain.state.params), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def lower_half_alone():
    """SGD for leaves of one layer, which are the lower half's; the upper half does not move."""
    return optax.stateless(
        lambda gradient, params: jax.tree.map(lambda g: -0.5 * g * (len(g) == 1), gradient)
    )


@pytest.mark.slow
def test_the_clients_half_is_fed_avgs_where_the_servers_half_is_fixed(task, corpus):
    part, join, _, _ = halves(task, LAYERS, cut=1)
    below, above = part(task.params)

    def loss(params, frozen, batch):
        return task.loss(join(params, above), frozen, batch)

    plain = fed_avg(loss, below, client_optimizer=RATE)
    run = {"rounds": 2, "clients": CLIENTS, "seed": 0}
    found = method(task, client_optimizer=lower_half_alone())
    *_, split = simulate_split(found, *federation(task, corpus), **run)
    *_, whole = simulate(plain, below, *federation(task, corpus)[1:], **run)
    got, upper = part(split.state.params)
    jax.tree.map(np.testing.assert_array_equal, upper, above)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5),
        got,
        whole.state.params,
    )


@pytest.mark.slow
def test_messages_by_hand(rounds):
    """4 bytes an activation each way, a byte a target, a bit of mask; the half once a round."""
    activations = 12 + 4 * ROWS * SEQ * WIDTH
    labels = ROWS * SEQ + ROWS * SEQ // 8
    for each in rounds:
        up, down = (total_bytes(each.messages, way) for way in ("up", "down"))
        assert up == CLIENTS * (STEPS * (activations + labels) + 12 + 4 * A_AND_B)
        assert down == CLIENTS * (12 + 4 * A_AND_B + STEPS * activations)
        assert len(each.messages) == CLIENTS * 2 * (STEPS + 1)


@pytest.mark.slow
def test_the_ledger_counts_the_dumped_bytes(task, corpus):
    coded = {"uplink": codec("eden(bits=4)"), "downlink": codec("stochastic_quantize(bits=8)")}
    found = method(task, **coded)
    key = jr.key(5)
    batch = jax.tree.map(lambda leaf: leaf[None, None], packed_batch())
    one = jax.jit(found.round)
    _, sent, info, _ = one(
        key, task.frozen, found.init(key, task.params), jnp.array([4]), jnp.ones(1), batch
    )
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0, 0], tree)  # noqa: E731
    dumped = [sent.start, first(sent.ahead), first(sent.back)]
    dumped.append(jax.tree.map(lambda leaf: leaf[0], sent.end))
    listed = split_entries(1, [4], sent)
    made = [len(wire.dumps(jax.device_get(tree))) for tree in dumped]
    assert [entry.payload_bytes + entry.header_bytes for entry in listed] == made
    assert [entry.direction for entry in listed] == ["down", "up", "down", "up"]
    assert made[1] < 4 * ROWS * SEQ * WIDTH / 4
    assert np.isfinite(info.loss).all()


@pytest.mark.slow
def test_a_run_resumed_from_a_snapshot_is_bit_identical(task, corpus, rounds):
    start = rounds[0].snapshot()
    (last,) = simulate_split(
        method(task), *federation(task, corpus), rounds=2, clients=CLIENTS, seed=0, start=start
    )
    for got, expected in zip(
        jax.tree.leaves(last.state), jax.tree.leaves(rounds[1].state), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.slow
def test_a_client_whose_activations_are_not_finite_is_left_out():
    """One of two clients has a token whose embedding is NaN."""
    config = DecoderConfig(**SIZES, tie_word_embeddings=False)
    task = language_model(config, key=jr.key(0), adapter=lora(rank=2))
    task = task._replace(params=moved(task.params))
    batches = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2)[:, None], packed_batch())
    tokens = (batches.tokens % 255).at[1, 0, 0, 0].set(255)
    batches = batches._replace(tokens=tokens)
    broken = {**task.frozen, "embedding": task.frozen["embedding"].at[255].set(jnp.nan)}
    found = method(task)
    state, one = found.init(jr.key(5), task.params), jax.jit(found.round)
    run = lambda frozen, weights: one(  # noqa: E731
        jr.key(5), frozen, state, jnp.arange(2), jnp.array(weights), batches
    )
    got, _, info, watched = run(broken, [1.0, 1.0])
    expected, _, _, _ = run(task.frozen, [1.0, 0.0])
    assert (int(watched.accepted), int(watched.failed)) == (1, 1)
    assert np.isnan(info.loss).tolist() == [False, True]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got.params, expected.params
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cut": 0}, "cut: expected an integer from 1 to 2 in a model of 3 layers, got 0"),
        ({"cut": 3}, "cut: expected an integer from 1 to 2 in a model of 3 layers, got 3"),
        (
            {"uplink": codec("error_feedback(eden(bits=2))")},
            "uplink: expected a codec that keeps no state",
        ),
        (
            {"downlink": codec("diana(eden(bits=2), rate=0.5)")},
            "downlink: expected a codec that keeps no state",
        ),
    ],
)
def test_arguments_that_split_lora_cannot_use_are_refused(task, flags, message):
    with pytest.raises(ValueError, match=f"split_lora: .*{message}"):
        method(task, **flags)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [full(), prompt_tuning(tokens=2)])
def test_parameters_outside_the_blocks_are_refused(adapter):
    task = language_model(DecoderConfig(**SIZES), key=jr.key(0), adapter=adapter)
    with pytest.raises(ValueError, match="split_lora: trainable parameters: expected stacks of 3"):
        method(task)


@pytest.mark.slow
def test_both_halves_follow_a_schedule_over_rounds(task, corpus, rounds):
    """With a rate of zero in the second round; the number of the round is 4 bytes down."""
    once = optax.chain(RATE, over_rounds(lambda number: jnp.array([1.0, 0.0])[number]))
    first, second = simulate_split(
        method(task, client_optimizer=once),
        *federation(task, corpus),
        rounds=2,
        clients=CLIENTS,
        seed=0,
    )
    pairs = zip(*map(jax.tree.leaves, (first.state.params, rounds[0].state.params)), strict=True)
    for got, right in pairs:
        np.testing.assert_allclose(got, right, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, second.state.params, first.state.params)
    down, plain = (total_bytes(r.messages, "down") for r in (first, rounds[0]))
    assert down == plain + 4 * CLIENTS


@pytest.mark.slow
def test_a_schedule_that_would_start_again_is_refused(task):
    with pytest.raises(ValueError, match="split_lora: client_optimizer: expected a constant"):
        method(task, client_optimizer=optax.sgd(optax.cosine_decay_schedule(0.5, 4)))


def test_parameters_in_bfloat16_are_refused(task):
    narrow = task._replace(params=jax.tree.map(lambda leaf: leaf.astype("bfloat16"), task.params))
    with pytest.raises(ValueError, match="split_lora: like: expected parameters in float32, as"):
        method(narrow)
