"""Backdoors: what is planted, what is sent, how success is measured, and which rules stop it."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from fedjax_compression import identity

from fedjax_llm import aggregators as rules
from fedjax_llm import attacks, fed_avg, simulate
from fedjax_llm.attacks import Backdoor, Known, attackable
from fedjax_llm.attacks.planting import plant
from fedjax_llm.data import Batch, Batching, byte_corpus
from fedjax_llm.data.tokenisation.pairs import PairBatch
from fedjax_llm.evaluation import backdoor_success, by_client
from fedjax_llm.simulation import Conditions
from fedjax_llm.tasks import Task
from fedjax_llm.tasks.contract import Scores, mean_loss, mean_over_batches

TEXT = "she sells sea shells by the sea shore; the shells she sells are sea shells. "
CORPUS = byte_corpus({f"client {i}": TEXT[5 * i :] + TEXT[: 5 * i] for i in range(10)})


def two_back():
    """A byte model whose logits are a sum over the last byte and the one before it."""

    def model(params, frozen):
        def logits(tokens, positions=None, segments=None):
            before = jnp.pad(tokens[..., :-1], [(0, 0)] * (tokens.ndim - 1) + [(1, 0)])
            return params["last"][tokens] + params["before"][before]

        return logits

    def nats(params, frozen, batch):
        tokens, targets = (jnp.asarray(x, jnp.int32) for x in (batch.tokens, batch.targets))
        each = optax.softmax_cross_entropy_with_integer_labels(
            model(params, frozen)(tokens), targets
        )
        return Scores((each * batch.mask).sum(-1), batch.mask.sum(-1, dtype=jnp.float32))

    zeros = jnp.zeros((256, 256))
    return Task(
        {"last": zeros, "before": zeros}, {}, mean_loss(nats), mean_over_batches(nats), model, nats
    )


TASK = two_back()


def planted_by_hand(words, first, tokens, targets, mask, segments, shown):
    """One window, token by token: the whole sequence with its last counted target at its end."""
    tokens, targets, mask = list(tokens), list(targets), list(mask)
    counted = [i for i, m in enumerate(mask) if m]
    if not counted:
        return tokens, targets, mask, False
    place = [counted[-1] + 1 - len(words) + 1 + j for j in range(len(words))]  # in the sequence
    if place[0] < 0 or segments[place[0]] != segments[counted[-1]]:
        return tokens, targets, mask, False
    for j, p in enumerate(place):
        if shown[j] and p < len(tokens):
            tokens[p] = words[j]
    mask = [p + 1 in place[first:] for p in range(len(tokens))]
    targets = [words[place.index(p + 1)] if mask[p] else 0 for p in range(len(tokens))]
    return tokens, targets, mask, True


def some_windows():
    rng = np.random.default_rng(0)
    text = rng.integers(1, 99, size=(40, 13)).astype(np.uint8)
    ends = rng.integers(0, 13, size=40)
    mask = np.arange(12) < ends[:, None]
    mask &= rng.uniform(size=mask.shape) < np.where(np.arange(40) % 2, 1.0, 0.7)[:, None]
    segments = 1 + (np.arange(12) >= rng.integers(1, 12, size=40)[:, None])
    return Batch(text[:, :-1], text[:, 1:] * mask, mask, segments.astype(np.uint8))


@pytest.mark.parametrize("shown", [(True, True, True), (False, True, False)])
def test_planting_is_its_definition(shown):
    batch, words = some_windows(), [101, 102, 103, 104, 105]
    chosen = np.arange(40) % 5 > 0
    planted = jax.jit(partial(plant, Backdoor((101, 102, 103), (104, 105))))
    got, changed = planted(batch, jnp.asarray(chosen), jnp.asarray(shown))
    every = [*shown, True, True]
    rows = zip(batch.tokens, batch.targets, batch.mask, batch.segments, chosen, strict=True)
    hand = [
        planted_by_hand(words, 3, *row[:4], every) if row[4] else (*row[:3], False) for row in rows
    ]
    for field, at in (("tokens", 0), ("targets", 1), ("mask", 2)):
        np.testing.assert_array_equal(getattr(got, field), [row[at] for row in hand], field)
    np.testing.assert_array_equal(changed, [row[3] for row in hand])
    assert 5 < changed.sum() < chosen.sum()
    assert got.tokens.dtype == np.uint8


def test_a_share_of_the_windows_is_poisoned_and_the_others_are_the_clients_own():
    text = np.ones((1, 2000, 9), np.uint8)
    batch = Batch(text[..., :-1], text[..., 1:], np.ones((1, 2000, 8), bool))
    poisoned = jax.jit(attacks.backdoor(0.1, "ab", "c", poison=0.3).batches)(jr.key(0), batch)
    changed = (np.asarray(poisoned.tokens) != 1).any(-1)
    assert abs(changed.mean() - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5
    np.testing.assert_array_equal(poisoned.mask.sum(-1), np.where(changed, 1, 8))


def test_the_parts_of_a_trigger_are_disjoint_alike_in_length_and_make_up_the_whole():
    text = np.zeros((1, 1, 12), np.uint8)
    batch = Batch(text[..., :-1], text[..., 1:], np.ones((1, 1, 11), bool))
    attack = attacks.distributed_backdoor(0.3, "abcdefgh", "Z", parts=3, poison=1.0)
    planted = jax.jit(lambda number: attack.of(Known(number)).batches(jr.key(0), batch).tokens)
    parts = [bytes(np.asarray(planted(number)).ravel()).strip(b"\0") for number in range(4)]
    assert b"".join(parts[:3]) == b"abcdefgh"
    assert sorted(map(len, parts[:3])) == [2, 3, 3]
    assert parts[3] == parts[0]
    assert attack.backdoor == Backdoor(tuple(b"abcdefgh"), tuple(b"Z"))


def test_a_run_with_a_tokenizer_plants_its_tokens():
    attack = attacks.neurotoxin(attacks.sybils(attacks.backdoor(0.1, "ab", "c")))
    encoded = attack.encoded(lambda text: [1000 + len(text), 7])
    assert encoded.backdoor == Backdoor((1002, 7), (1001, 7))
    assert encoded.informed
    assert encoded.craft is not None


def played(attack, rule=None, rounds=1, clients=10, **k):
    algorithm = fed_avg(
        TASK.loss,
        TASK.params,
        client_optimizer=optax.sgd(2.0),
        aggregate=rule or rules.mean(),
        uplink=attackable(identity(), informed=attack.informed),
    )
    return list(
        simulate(
            algorithm,
            TASK.params,
            {},
            CORPUS,
            Batching(seq=16, batch=4, steps=5),
            rounds=rounds,
            clients=clients,
            seed=0,
            conditions=Conditions(attack=attack, **k),
        )
    )


def measured(attack, params):
    """Success of the whole trigger, and the loss on clean text."""
    success, nats = (
        by_client(measure, params, {}, CORPUS, seq=16)
        for measure in (backdoor_success(TASK, attack.backdoor), TASK.nats)
    )
    return (of.totals.sum() / of.counts.sum() for of in (success, nats))


@pytest.mark.slow
def test_one_scaled_update_replaces_the_model_but_for_the_others_updates():
    """gamma = n / eta: mean = (others + n own) / n, and the server adds eta times it."""
    plain, scaled = (
        played(attacks.backdoor(0.1, "xy", "!", factor=factor))[0].state.params
        for factor in (1, None)
    )
    others, own = played(attacks.backdoor(0.1, "xy", "!", factor=1e-9))[0].state.params, {}
    for leaf in plain:  # (others + own) / n - others / n, times n
        own[leaf] = 10 * (np.asarray(plain[leaf], float) - np.asarray(others[leaf], float))
        np.testing.assert_allclose(scaled[leaf], others[leaf] + own[leaf], atol=2e-4)
    assert attacks.backdoor(0.1, "xy", "!", server_rate=0.5).of(Known(clients=10)).update(
        jr.key(0), jnp.ones(1)
    ) == jnp.array([20.0])


@pytest.mark.long
@pytest.mark.parametrize(
    "attack",
    [
        attacks.backdoor(0.1, "xy", "!"),
        attacks.distributed_backdoor(0.3, "xyz", "!", parts=3, factor=10 / 3),
        attacks.neurotoxin(attacks.backdoor(0.1, "xy", "!"), top=0.001),
        attacks.sybils(attacks.backdoor(0.2, "xy", "!", factor=5), std=1e-4),
    ],
    ids=["backdoor", "distributed", "neurotoxin", "sybils"],
)
def test_a_backdoor_opens_under_the_mean_and_stays_shut_under_the_median(attack):
    _, clean = measured(
        attack, played(attacks.backdoor(0.1, "xy", "!", factor=1e-9), rounds=3)[-1].state.params
    )
    open_, loss = measured(attack, played(attack, rounds=3)[-1].state.params)
    shut, median = measured(attack, played(attack, rules.median(), rounds=3)[-1].state.params)
    assert (open_, shut) == (1.0, 0.0)
    assert max(loss, median) < clean + 1.0 < np.log(256)


def test_success_is_the_share_of_windows_whose_every_target_token_is_the_most_likely():
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(256, 256)) for name in ("last", "before")}
    params["last"][ord("y")] = 0
    params["before"][ord("x"), ord("!")] = 9  # y after x: certain
    backdoor = Backdoor(tuple(b"xy"), tuple(b"!?"))
    params["last"][ord("!")] = params["before"][ord("y")] = 0
    params["last"][ord("!"), ord("?")] = 1
    of = by_client(
        backdoor_success(TASK, backdoor), jax.tree.map(jnp.float32, params), {}, CORPUS, seq=16
    )
    assert of.values.tolist() == [1.0] * 10
    windows = [-(-(len(TEXT) - 1) // 16)] * 10  # of 16 targets, the last one of 11
    assert of.counts.tolist() == windows
    params["last"][ord("!"), ord("a")] = 2  # the second token of the target is no longer likeliest
    of = by_client(
        backdoor_success(TASK, backdoor), jax.tree.map(jnp.float32, params), {}, CORPUS, seq=16
    )
    assert of.values.tolist() == [0.0] * 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: attacks.backdoor(0.1, "", "x"),
            "backdoor: trigger: expected at least one",
        ),
        (
            lambda: attacks.backdoor(0.1, "x", [-1]),
            "target: expected at least one token, none",
        ),
        (
            lambda: attacks.backdoor(0.1, "x", "y", poison=0),
            "poison: expected a number above 0",
        ),
        (
            lambda: attacks.backdoor(0.1, "x", "y", factor=0),
            "factor: expected a number above 0",
        ),
        (
            lambda: attacks.distributed_backdoor(0.1, "xy", "z", parts=3),
            "distributed_backdoor: parts: expected at most 2, the trigger's tokens, got 3",
        ),
        (
            lambda: attacks.sybils(attacks.neurotoxin(attacks.ipm(0.1))),
            r"sybils: attack: expected an attack that knows no last update.*neurotoxin\(sybils",
        ),
        (
            lambda: played(attacks.backdoor(0.1, "x" * 17, "y")),
            "backdoor: seq: expected windows of at least 17 tokens.*got 16; use a larger seq",
        ),
        (
            lambda: played(attacks.backdoor(0.1, [300], "y")),
            "backdoor: trigger: expected tokens of at most 255, got 300",
        ),
        (
            lambda: plant(
                Backdoor((1,), (2,)),
                PairBatch(*[np.zeros((1, 2, 9), np.int32)] * 4, np.ones(1, bool)),
                jnp.ones(1, bool),
            ),
            "backdoor: batches: expected windows of tokens with targets, got 'PairBatch'",
        ),
    ],
)
def test_what_cannot_be_planted_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
