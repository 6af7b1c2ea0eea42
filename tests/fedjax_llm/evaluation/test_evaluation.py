"""Measures by client, their distribution, nats per byte, options, overlap and generation."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from tokenizers import decoders

from fedjax_llm import DecoderConfig, language_model
from fedjax_llm.data import (
    Example,
    Message,
    Question,
    all_windows,
    hold_out,
    tokenize,
    tokenize_choices,
)
from fedjax_llm.evaluation import (
    Answered,
    ByClient,
    answer,
    by_client,
    by_own_model,
    distribution,
    exact_match,
    option_accuracy,
    per_byte,
    rouge_l,
    scored,
    token_bytes,
)
from fedjax_llm.evaluation.overlap import longest_common_subsequence
from fedjax_llm.tasks.decoder import log_likelihood
from tests.helpers.fast_tokenizers import byte_level
from tests.helpers.spaced import spaced

SEQ = 24


@pytest.fixture(scope="module")
def bpe():
    return byte_level()


@pytest.fixture(scope="module")
def small(bpe):
    """A decoder with the tokenizer's vocabulary and well separated logits."""
    config = DecoderConfig(
        vocab_size=len(bpe), hidden_size=16, intermediate_size=24, num_attention_heads=2
    )
    task = language_model(config, key=jr.key(0))
    return task._replace(params=jax.tree.map(lambda leaf: 3 * leaf, task.params))


@pytest.mark.slow
def test_a_clients_value_equals_that_of_its_data_alone(task, corpus):
    measured = by_client(task.nats, task.params, task.frozen, corpus, seq=16, batch=4)
    assert measured.names == corpus.names
    np.testing.assert_array_equal(measured.counts, corpus.targets())
    for i in range(len(corpus.names)):
        alone = all_windows(corpus.select([(i, 0, int(corpus.pieces()[i]))]), seq=16, batch=64)
        nats = task.evaluate(task.params, task.frozen, alone)
        assert measured.values[i] == pytest.approx(float(nats), rel=1e-5)
    other = by_client(task.nats, task.params, task.frozen, corpus, seq=16, batch=32)
    np.testing.assert_allclose(measured.totals, other.totals, rtol=1e-5)


def test_a_measure_is_compiled_once_for_all_clients_and_calls(task, corpus):
    traces = 0

    def counting(params, frozen, batch):
        nonlocal traces
        traces += 1
        return task.nats(params, frozen, batch)

    for params in (task.params, jax.tree.map(lambda leaf: 2 * leaf, task.params)):
        by_client(counting, params, task.frozen, corpus, seq=16, batch=4)
    by_client(counting, task.params, task.frozen, hold_out(corpus, seed=0).train, seq=16, batch=4)
    assert traces == 1


def test_a_distribution_computed_by_hand():
    values = np.arange(11.0)
    measured = ByClient(tuple("abcdefghijkl"), [*values * 2, 0.0], [*[2.0] * 11, 0.0])
    measured = measured._replace(totals=np.array(measured.totals), counts=np.array(measured.counts))
    assert np.isnan(measured.values[-1])
    found = distribution(measured, higher_is_better=False, quantiles=(0.0, 0.25, 0.5))
    assert found == (11, 5.0, 5.0, {0.0: 0.0, 0.25: 2.5, 0.5: 5.0}, 9.5)
    assert distribution(measured, higher_is_better=True).worst_tenth == 0.5
    uneven = ByClient(("a", "b"), np.array([1.0, 30.0]), np.array([1.0, 3.0]))
    assert distribution(uneven, higher_is_better=False)[:3] == (2, 5.5, 7.75)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_clients_whose_loss_is_nan_do_not_hide_the_worst_tenth(higher_is_better):
    totals = np.array([6.0, *[np.nan] * 10])  # the worst tenth of eleven clients is two
    measured = ByClient(tuple("abcdefghijk"), totals, np.full(11, 2.0))
    found = distribution(measured, higher_is_better=higher_is_better)
    assert found.worst_tenth == 3.0
    assert np.isnan(found.mean)


def test_a_distribution_without_counts_is_refused():
    none = ByClient(("a",), np.zeros(1), np.zeros(1))
    with pytest.raises(
        ValueError, match="measured: expected a client with a count above 0, got none"
    ):
        distribution(none, higher_is_better=True)


@pytest.mark.parametrize("text", ["the cat sat", "é… naïve ‽ 猫\n\n", " mat. the\tmat"])
def test_the_bytes_of_a_texts_tokens_add_up_to_its_size(bpe, text):
    sizes = token_bytes(bpe)
    ids = bpe(text, add_special_tokens=False)["input_ids"]
    assert sizes[ids].sum() == len(text.encode())
    assert sizes[[bpe.bos_token_id, bpe.eos_token_id]].tolist() == [0, 0]


def test_the_space_before_a_text_counts_where_the_tokenizer_puts_one():
    tokenizer = spaced()
    sizes = token_bytes(tokenizer, vocab_size=99)
    assert sizes.shape == (99,)
    ids = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert sizes[ids].sum() == len(" the cat")


def test_tokenizers_whose_bytes_are_unknown_are_refused(bpe):
    with pytest.raises(ValueError, match=r"token_bytes: vocab_size: expected at least \d+"):
        token_bytes(bpe, vocab_size=9)
    other = byte_level()
    other.backend_tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match=r"token_bytes: tokenizer: expected one .* got WordPiece"):
        token_bytes(other)


@pytest.mark.slow
def test_nats_per_byte_count_the_bytes_of_counted_targets(small, bpe):
    chat = (Message("user", "the cat"), Message("assistant", "sat on é"))
    corpus = tokenize({"a": [Example(chat)], "b": [Example("hello there")]}, bpe, seq=SEQ)
    nats = by_client(small.nats, small.params, small.frozen, corpus, seq=SEQ)
    bytes_ = per_byte(small.nats, token_bytes(bpe))
    measured = by_client(bytes_, small.params, small.frozen, corpus, seq=SEQ)
    np.testing.assert_allclose(measured.totals, nats.totals, rtol=1e-6)
    first = len(bpe.decode(corpus.tokens[corpus.offsets[1]]).encode())
    assert measured.counts.tolist() == [len("sat on é".encode()), len("hello there") - first]


QUESTIONS = {
    "b": [
        Question((Message("user", "the cat"),), ("sat", "sat on the mat."), 0),
        Question((Message("user", "hello"),), ("there", "system", "[INST]", "cat"), 2),
    ],
    "a": [Question((Message("user", "the mat"),), ("on", "hello", "the"), 1)],
}


def test_questions_keep_their_options_and_answers(bpe):
    choices = tokenize_choices(QUESTIONS, bpe, seq=SEQ)
    assert choices.names == ("a", "b")
    assert choices.pieces().tolist() == choices.targets().tolist() == [1, 2]
    batch = all_windows(choices, seq=SEQ, batch=2)
    assert batch.tokens.shape == (2, 2, 4, SEQ)
    assert batch.there.sum(axis=-1).tolist() == [[3, 2], [4, 0]]
    assert batch.answers.tolist() == [[1, 0], [2, 0]]
    said = [bpe.decode(t[c]) for t, c in zip(batch.targets[1, 0], batch.counted[1, 0], strict=True)]
    assert said == ["there</s>", "system</s>", "[INST]</s>", "cat</s>"]
    some = all_windows(choices.select([(1, 1, 2)]), seq=SEQ, batch=1)
    np.testing.assert_array_equal(some.tokens[0, 0], batch.tokens[1, 0])
    assert some.answers.tolist() == [[2]]
    split = hold_out(choices, seed=0, clients=0.0, examples=0.5)
    assert [part.pieces().tolist() for part in split] == [[1, 1], [1], []]


@pytest.mark.slow
@pytest.mark.parametrize("per_token", [False, True])
def test_batched_options_score_as_each_option_alone(small, bpe, per_token):
    choices = tokenize_choices(QUESTIONS, bpe, seq=SEQ)
    batch = jax.tree.map(lambda leaf: leaf[0], all_windows(choices, seq=SEQ, batch=4))
    model = small.model(small.params, small.frozen)
    right = []
    for row in range(3):
        nats = []
        for option in np.flatnonzero(batch.there[row]):
            alone = jax.tree.map(lambda leaf, r=row, o=option: leaf[r, o][None], batch[:3])
            total = float(log_likelihood(model, batch._replace(**alone_fields(alone)))[0])
            nats.append(total / batch.counted[row, option].sum() if per_token else total)
        right.append(int(np.argmax(nats)) == batch.answers[row])
    measure = option_accuracy(small, per_token=per_token)
    scores = measure(small.params, small.frozen, batch)
    assert scores.totals.tolist() == [*right, 0]
    assert scores.counts.tolist() == [1, 1, 1, 0]
    found = by_client(measure, small.params, small.frozen, choices, seq=SEQ, batch=2)
    assert found.totals.tolist() == [right[0], sum(right[1:])]


def alone_fields(leaves):
    return dict(zip(("tokens", "targets", "counted"), leaves, strict=True))


@pytest.mark.slow
def test_a_uniform_model_favours_short_options(small, bpe):
    known = jax.tree.map(jnp.zeros_like, small.params)
    choices = tokenize_choices(QUESTIONS, bpe, seq=SEQ)
    batch = jax.tree.map(lambda leaf: leaf[0], all_windows(choices, seq=SEQ, batch=3))
    sizes = np.where(batch.there, batch.counted.sum(axis=-1), 99)
    scores = option_accuracy(small)(known, small.frozen, batch)
    assert scores.totals.tolist() == (sizes.argmin(axis=-1) == batch.answers).tolist()


@pytest.mark.parametrize(
    ("generated", "expected", "score"),
    [
        ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin 2004, section 3.1
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("the gunman police killed", "police killed the gunman", 2 / 4),
        ("w1 w2 w6 w7 w8", "w1 w2 w3 w4 w5", 2 / 5),
        ("a b", "a x b y", 2 * (1 * 0.5) / 1.5),
        ("The CAT, sat!", "the cat sat", 1.0),
        ("Die Straße 猫", "die straße 猫", 1.0),
        ("a a a", "a", 0.5),
        ("", "a", 0.0),
        ("a", "!?", 0.0),
        ("x", "y", 0.0),
    ],
)
def test_rouge_l_computed_by_hand(generated, expected, score):
    assert rouge_l(generated, expected) == pytest.approx(score)


def test_the_longest_common_subsequence_matches_dynamic_programming():
    random = np.random.default_rng(0)
    for _ in range(50):
        one, other = ([str(w) for w in random.integers(0, 4, random.integers(0, 9))] for _ in "ab")
        table = np.zeros((len(one) + 1, len(other) + 1), int)
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                longer = max(table[i, j + 1], table[i + 1, j])
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else longer
        assert longest_common_subsequence(one, other) == table[-1, -1]


@pytest.mark.parametrize(
    ("generated", "expected", "score"),
    [(" Yes.\n", "Yes.", 1), ("a  b", "a\nb", 1), ("yes.", "Yes.", 0), ("Yes", "Yes.", 0)],
)
def test_an_exact_match_ignores_white_space_only(generated, expected, score):
    assert exact_match(generated, expected) == score


def test_scores_are_added_up_by_client():
    answers = [Answered(*row, "") for row in (("b", "x", "x"), ("a", "x", "y"), ("b", "z", "y"))]
    found = scored(answers, exact_match)
    assert found.names == ("a", "b")
    assert found.values.tolist() == [0.0, 0.5]


def talk(*contents, source=""):
    return Example(tuple(map(Message, ["user", "assistant"] * 9, contents)), source=source)


@pytest.mark.slow
def test_batched_answers_equal_those_of_each_prompt_alone(small, bpe):
    model = small.model(small.params, small.frozen)
    examples = {
        "b": [talk("the cat", "sat on"), talk("hello", "there", "the mat", "on")],
        "a": [talk("system", "user")],
    }
    options = {"seq": 30, "max_new_tokens": 5}
    found = answer(model, examples, bpe, batch=2, **options)
    assert [(one.client, one.expected) for one in found] == [
        ("a", "user"),
        ("b", "sat on"),
        ("b", "on"),
    ]
    alone = [
        answer(model, {client: [example]}, bpe, batch=1, **options)[0]
        for client in "ab"
        for example in examples[client]
    ]
    assert found == alone
    assert len({one.generated for one in found}) > 1
    sampled = [
        answer(model, examples, bpe, temperature=1.0, key=jr.key(seed), batch=2, **options)
        for seed in (0, 0, 1)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            Example("text", source="t: row 1"),
            r"t: row 1: expected a chat with a question and its answer",
        ),
        (talk("the cat " * 9, "x", source="t: row 1"), r"t: row 1: expected a prompt of 1 to 9 t"),
    ],
)
def test_examples_without_a_usable_prompt_are_refused(small, bpe, example, message):
    model = small.model(small.params, small.frozen)
    with pytest.raises(ValueError, match=message):
        answer(model, {"a": [example]}, bpe, seq=9, max_new_tokens=2)


def test_each_client_is_measured_by_its_own_model(task, corpus):
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * (leaf.ndim > 1), task.params)

    def params_of(name):
        return moved if name in ("client 2", "client 5") else task.params

    got = by_own_model(task.nats, params_of, task.frozen, corpus, seq=16, batch=4)
    plain, other = (
        by_client(task.nats, params, task.frozen, corpus, seq=16, batch=64)
        for params in (task.params, moved)
    )
    chosen = np.isin(np.arange(7), (2, 5))
    assert got.names == plain.names
    np.testing.assert_array_equal(got.counts, plain.counts)
    np.testing.assert_allclose(got.totals, np.where(chosen, other.totals, plain.totals), rtol=1e-5)
    assert (np.abs(other.totals - plain.totals) > 0.1).all()
