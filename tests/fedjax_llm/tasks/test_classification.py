"""Labelled texts, and classifiers that are trained on them."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from flax import nnx
from tokenizers import processors

from fedjax_llm import classification, fed_avg, lora
from fedjax_llm.adapters import Adapter, head_only
from fedjax_llm.data import (
    Batching,
    Example,
    Fields,
    Message,
    all_windows,
    cohort_batches,
    hold_out,
    table,
    tokenize_labelled,
)
from fedjax_llm.models import Encoder, EncoderConfig
from fedjax_llm.simulation import simulate
from fedjax_llm.tasks import label_accuracy
from tests.helpers.fast_tokenizers import byte_level

SEQ = 12
CONFIG = EncoderConfig(
    vocab_size=330,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    max_position_embeddings=SEQ,
    pooler=False,
)


@pytest.fixture(scope="module")
def around():
    """A tokenizer that adds <s> before a text and </s> after it, like BERT's [CLS] and [SEP]."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def labelled(around):
    """Texts labelled cat or mat; client i has 4 + 4 i of them."""
    rows = [
        {"text": f"{before} {thing}.", "label": thing, "who": f"client {who}"}
        for who in range(3)
        for before in ("the", "hello the", "on a", "sat on", "to the", "there:")[: 2 + 2 * who]
        for thing in ("cat", "mat")
    ]
    examples = table(rows, Fields(text="text", label="label", client="who"))
    return tokenize_labelled(examples, around, seq=SEQ)


@pytest.fixture(scope="module")
def task():
    return classification(CONFIG, labels=2, pooling="mean", key=jr.key(0))


def test_rows_are_whole_texts_with_their_special_tokens(labelled, around):
    assert labelled.label_names == ("cat", "mat")
    assert labelled.names == ("client 0", "client 1", "client 2")
    np.testing.assert_array_equal(labelled.targets(), [4, 8, 12])
    batch = all_windows(labelled, seq=SEQ, batch=5)
    assert batch.tokens.shape == batch.segments.shape == (5, 5, SEQ)
    rows = zip(batch.tokens[0], batch.segments[0], batch.labels[0], strict=True)
    assert [(around.decode(t[s]), n) for t, s, n in rows][:3] == [
        ("<s>the cat.</s>", 0),
        ("<s>the mat.</s>", 1),
        ("<s>hello the cat.</s>", 0),
    ]
    assert batch.mask.sum() == 24
    assert not batch.tokens[-1, -1].any()
    assert not batch.segments[~batch.mask].any()


def test_batches_and_splits_are_of_texts(labelled):
    keys = np.array([[0, 1], [0, 2]], np.uint32)
    batch = cohort_batches(labelled, Batching(seq=SEQ, batch=4, epochs=1), [0, 2], keys)
    assert batch.labels.shape == (2, 3, 4)
    assert batch.mask.sum(axis=(1, 2)).tolist() == [4, 12]
    assert batch.labels.sum(axis=(1, 2)).tolist() == [2, 6]
    split = hold_out(labelled, seed=0, clients=0.34, examples=0.25)
    assert sum(part.targets().sum() for part in split) == 24
    every = texts_of(labelled)
    assert len(every) == 12  # each of some clients
    assert all(texts_of(part) <= every for part in split)


def texts_of(labelled):
    batch = all_windows(labelled, seq=SEQ, batch=1)
    rows = zip(batch.tokens[:, 0], batch.labels[:, 0], strict=True)
    return {(tokens.tobytes(), int(label)) for tokens, label in rows}


@pytest.mark.parametrize(
    ("examples", "arguments", "message"),
    [
        (
            [Example("x", "", "t: row 1")],
            {},
            r"expected at least two labels, each once, got \[''\]",
        ),
        (
            [Example("x", "c", "t: row 1")],
            {"label_names": ("a", "b")},
            r"t: row 1: expected one of the labels 'a', 'b', got 'c'",
        ),
        (
            [Example((Message("user", "x"),), "a", "t: row 1")],
            {"label_names": ("a", "b")},
            r"t: row 1: expected a text to classify, got a chat",
        ),
        (
            [Example("the cat " * 9, "a", "t: row 1")],
            {"label_names": ("a", "b")},
            r"t: row 1: expected 1 to 12 tokens, got \d+; .* long='truncate'",
        ),
        (
            [Example("the", "a", "t: row 1")],
            {"label_names": ("a", "b"), "vocab_size": 5},
            r"t: row 1: expected tokens below the vocabulary's size of 5",
        ),
        ([], {}, r"tokenize_labelled: client 'a': expected at least one example"),
    ],
)
def test_wrong_labelled_texts_are_refused(around, examples, arguments, message):
    with pytest.raises(ValueError, match=message):
        tokenize_labelled({"a": examples}, around, seq=SEQ, **arguments)


def test_a_longer_text_is_cut_before_its_end_token(around):
    names = ("a", "b")
    made = tokenize_labelled(
        {"a": [Example("the cat " * 9, "a")]}, around, seq=5, label_names=names, long="truncate"
    )
    assert len(made.corpus.tokens) == 5
    assert made.corpus.tokens[[0, -1]].tolist() == [0, 1]
    with pytest.raises(ValueError, match="Labelled: client 'a': expected at most 4 tokens"):
        made.rows([0], seq=4)


@pytest.mark.slow
def test_nats_equal_those_of_the_softmax_and_padding_does_not_count(task, labelled):
    batch = jax.tree.map(lambda leaf: leaf[-1], all_windows(labelled, seq=SEQ, batch=9))
    model = task.model(task.params, task.frozen)
    expected, right = [], []
    for row in range(6):
        own = jnp.asarray(batch.tokens[row][batch.segments[row]], jnp.int32)[None]
        scores = np.asarray(model(own)[0], np.float64)
        expected.append(np.log(np.exp(scores).sum()) - scores[batch.labels[row]])
        right.append(scores.argmax() == batch.labels[row])
    scores = task.nats(task.params, task.frozen, batch)
    np.testing.assert_allclose(scores.totals, [*expected, 0, 0, 0], rtol=1e-4)
    assert scores.counts.tolist() == [1] * 6 + [0] * 3
    loss = task.loss(task.params, task.frozen, batch)
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-4)
    got = label_accuracy(task)(task.params, task.frozen, batch)
    assert got.totals.tolist() == [*right, 0, 0, 0]
    diverged = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), task.params)
    got = label_accuracy(task)(diverged, task.frozen, batch)
    np.testing.assert_array_equal(got.totals, [math.nan] * 6 + [0] * 3)  # not the share of label 0


def fit(task, labelled, rate, rounds=5):
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adam(rate))
    batching = Batching(seq=SEQ, batch=4, steps=4)
    federation = (algorithm, task.params, task.frozen, labelled, batching)
    params = list(simulate(*federation, rounds=rounds, clients=3, seed=0))[-1].state.params
    batch = jax.tree.map(lambda leaf: leaf[0], all_windows(labelled, seq=SEQ, batch=24))
    return [
        float(measure(p, task.frozen, batch).totals.mean())
        for measure in (task.nats, label_accuracy(task))
        for p in (task.params, params)
    ]


@pytest.mark.slow
def test_a_federation_learns_to_classify(task, labelled):
    before, after, _, right = fit(task, labelled, 0.01)
    assert after < 0.3 < before
    assert right == 1.0


@pytest.mark.slow
def test_the_head_alone_trains_on_a_frozen_encoder(labelled):
    encoder = nnx.to_pure_dict(nnx.state(Encoder(CONFIG, rngs=nnx.Rngs(7)), nnx.Param))
    made = classification(
        CONFIG, labels=2, pooling="mean", key=jr.key(0), adapter=head_only(), params=encoder
    )
    assert jax.tree.map(jnp.shape, made.params) == {"classifier": {"bias": (2,), "kernel": (16, 2)}}
    jax.tree.map(np.testing.assert_array_equal, made.frozen["encoder"], encoder)
    before, after, *_ = fit(made, labelled, 0.2)
    assert after < before - 0.1


@pytest.mark.slow
def test_an_adapter_is_trained_beside_the_head(labelled):
    biases = Adapter(attach=lambda key, model: None, trainable=nnx.PathContains("bias"))
    made = classification(CONFIG, labels=2, pooling="mean", key=jr.key(0), adapter=biases)
    paths = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(made.params)}
    assert "['classifier']['kernel']" in paths
    assert all("bias" in path or "classifier" in path for path in paths)
    before, after, *_ = fit(made, labelled, 0.02)
    assert after < before - 0.1


@pytest.mark.slow
def test_low_rank_products_are_trained_beside_the_head(labelled):
    made = classification(CONFIG, labels=2, pooling="mean", key=jr.key(0), adapter=lora(rank=2))
    paths = {jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(made.params)}
    assert {"['classifier']['kernel']", "['classifier']['bias']"} < paths
    assert not any("kernel" in path and "encoder" in path for path in paths)
    before, after, *_ = fit(made, labelled, 0.02)
    assert after < before - 0.1


def test_the_parameters_of_a_classifier_are_used_with_their_head(task):
    again = classification(CONFIG, labels=2, pooling="mean", key=jr.key(5), params=task.params)
    jax.tree.map(np.testing.assert_array_equal, again.params, task.params)
    with pytest.raises(ValueError, match="params: expected shapes"):
        classification(CONFIG, labels=3, pooling="mean", key=jr.key(5), params=task.params)
