"""Corpora of documents: windows, batches and splits."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_llm.data import (
    Batching,
    Corpus,
    all_windows,
    bigram_nats,
    cohort_batches,
    hold_out,
    token_dtype,
)

SEQ = 6


def corpus_of(clients, *, vocab_size=60_000, counted=None):
    """`clients` has the sizes of each client's documents; all tokens differ."""
    sizes = [size for client in clients for size in client]
    total = sum(sizes)
    return Corpus(
        names=tuple(f"client {i:02}" for i in range(len(clients))),
        tokens=np.arange(1, total + 1).astype(token_dtype(vocab_size)),
        offsets=np.cumsum([0, *map(sum, clients)]),
        vocab_size=vocab_size,
        documents=np.cumsum([0, *sizes]),
        counted=None if counted is None else np.resize(np.array(counted, bool), total),
    )


corpora = st.builds(
    corpus_of,
    st.lists(st.lists(st.integers(2, SEQ + 1), min_size=1, max_size=9), min_size=1, max_size=5),
    counted=st.none() | st.lists(st.booleans(), min_size=1, max_size=11),
)


def documents_of(corpus):
    return np.split(corpus.tokens, corpus.documents[1:-1])


@settings(deadline=None, max_examples=60)
@given(corpora, st.booleans())
def test_every_counted_target_comes_once_and_after_its_own_document(corpus, pack):
    batch = all_windows(corpus, seq=SEQ, batch=3, pack=pack)
    counted = np.ones(len(corpus.tokens), bool) if corpus.counted is None else corpus.counted
    places = [np.arange(a + 1, b) for a, b in itertools.pairwise(corpus.documents)]
    wanted = [place for place in np.concatenate(places) if counted[place]]
    np.testing.assert_array_equal(batch.targets[batch.mask], corpus.tokens[wanted])
    np.testing.assert_array_equal(batch.tokens[batch.mask], corpus.tokens[wanted] - 1)
    assert (batch.targets[~batch.mask] == 0).all()
    assert batch.mask.sum() == corpus.targets().sum() == corpus.is_target().sum()
    assert batch.tokens.dtype == batch.targets.dtype == np.uint16


@settings(deadline=None, max_examples=60)
@given(corpora)
def test_segments_and_positions_tell_documents_apart(corpus):
    batch = all_windows(corpus, seq=SEQ, batch=3)
    assert batch.segments.dtype == batch.positions.dtype == np.uint8
    windows = zip(
        *(leaf.reshape(-1, SEQ) for leaf in (batch.tokens, batch.segments, batch.positions)),
        strict=True,
    )
    seen = []
    for tokens, segments, positions in windows:
        for segment in range(1, segments.max() + 1):
            inside = segments == segment
            np.testing.assert_array_equal(positions[inside], np.arange(inside.sum()))
            seen.append(tokens[inside].tolist())
        assert (np.diff(np.trim_zeros(segments)) >= 0).all()
        assert (tokens[segments == 0] == 0).all()
    whole = [document.tolist() for document in documents_of(corpus)]
    assert [document in (own, own[:-1]) for document, own in zip(seen, whole, strict=True)]
    assert all(own[: len(document)] == document for document, own in zip(seen, whole, strict=True))


@settings(deadline=None, max_examples=60)
@given(corpora)
def test_no_window_leaves_out_a_document_that_fits(corpus):
    batch = all_windows(corpus, seq=SEQ, batch=1)
    at = 0
    sizes = np.diff(corpus.documents)
    starts = set(corpus.offsets[:-1].tolist())
    for segments in batch.segments.reshape(-1, SEQ):
        after = at + segments.max()
        assert sizes[at:after].sum() <= SEQ + 1
        if after < len(sizes) and corpus.documents[after] not in starts:
            assert sizes[at : after + 1].sum() > SEQ + 1
        at = after
    assert at == len(sizes)


@settings(deadline=None, max_examples=60)
@given(corpora, st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.29, 0.5]))
def test_hold_out_keeps_documents_whole_and_loses_none(corpus, seed, share):
    split = hold_out(corpus, seed=seed, clients=share, examples=share)
    assert not set(split.unseen_clients.names) & set(split.train.names)
    assert len(split.unseen_clients.names) == int(len(corpus.names) * share)
    assert set(split.heldout.names) <= set(split.train.names)
    kept = [d.tolist() for part in split if part.names for d in documents_of(part)]
    lost = {d[0] - 1 for d in map(np.ndarray.tolist, documents_of(corpus)) if d not in kept}
    stops = dict(itertools.pairwise(corpus.documents.tolist()))
    assert len(kept) + len(lost) == len(corpus.documents) - 1
    assert not any(corpus.is_target()[start : stops[start]].any() for start in lost)
    for part in split:
        assert len(part.offsets) == len(part.names) + 1
        assert set(part.offsets) <= set(part.documents)
        assert (part.counted is None) == (corpus.counted is None)


def test_packed_windows_worked_by_hand():
    corpus = corpus_of([[3, 2, 2, 5], [7]], counted=[0, 1, 1])
    batch = all_windows(corpus, seq=SEQ, batch=3)
    assert batch.tokens[0].tolist() == [
        [1, 2, 3, 4, 5, 6],
        [8, 9, 10, 11, 0, 0],
        [13, 14, 15, 16, 17, 18],
    ]
    assert batch.segments[0].tolist() == [[1, 1, 1, 2, 2, 3], [1] * 4 + [0] * 2, [1] * 6]
    assert batch.positions[0].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0], [*range(6)]]
    assert batch.targets[0].tolist() == [
        [2, 3, 0, 5, 0, 0],
        [9, 0, 11, 12, 0, 0],
        [14, 15, 0, 17, 18, 0],
    ]
    assert corpus.targets().tolist() == [6, 4]


def test_one_document_a_window_needs_no_segments():
    corpus = corpus_of([[3, 2], [4]])
    batch = cohort_batches(
        corpus,
        Batching(seq=SEQ, batch=2, epochs=1, pack=False),
        [1, 0],
        np.zeros((2, 2), np.uint32),
    )
    assert batch.segments is None
    assert batch.positions is None
    assert batch.tokens.shape == (2, 1, 2, SEQ)
    assert batch.mask.sum(axis=(1, 2, 3)).tolist() == [3, 3]
    assert len(jax.tree.leaves(batch)) == 3


def test_packed_batches_of_a_client_depend_on_its_key_alone():
    corpus = corpus_of([[5] * 9, [6, 2, 2, 3] * 4, [7]])
    keys = np.array([[0, 1], [0, 2]], np.uint32)
    for batching in (Batching(seq=SEQ, batch=2, steps=3), Batching(seq=SEQ, batch=2, epochs=2)):
        both = cohort_batches(corpus, batching, [0, 1], keys)
        alone = cohort_batches(corpus, batching, [1], keys[1:])
        for one, two in zip(alone, both, strict=True):
            np.testing.assert_array_equal(one[0], two[1])
        assert both.segments.shape == both.tokens.shape


@pytest.mark.parametrize("pack", [True, False])
def test_a_document_longer_than_the_window_is_refused_by_name(pack):
    corpus = corpus_of([[3, 2], [2, 8]])
    with pytest.raises(ValueError, match=r"'client 01': document 2: expected at most 7 .* got 8"):
        all_windows(corpus, seq=SEQ, batch=1, pack=pack)


@pytest.mark.parametrize(
    ("size", "dtype"), [(256, "u1"), (257, "u2"), (65536, "u2"), (65537, "i4")]
)
def test_tokens_are_as_small_as_the_vocabulary_allows(size, dtype):
    assert np.dtype(token_dtype(size)) == dtype


def test_streams_may_be_of_wide_tokens_and_counted_in_part():
    corpus = Corpus(
        ("a",), np.arange(70_000, 70_010, dtype=np.int32), np.array([0, 10]), 80_000,
        counted=np.arange(10) >= 5,
    )  # fmt: skip
    batch = all_windows(corpus, seq=4, batch=1)
    assert batch.segments is None
    assert batch.targets.dtype == np.int32
    assert batch.targets[batch.mask].tolist() == [*range(70_005, 70_010)]
    assert corpus.targets().tolist() == [5]


def test_shares_are_checked():
    with pytest.raises(
        ValueError, match=r"hold_out: clients: expected a number at least 0 and below 1, got 1.0"
    ):
        hold_out(corpus_of([[3]]), seed=0, clients=1.0)


def test_the_bigram_baseline_is_for_bytes():
    corpus = corpus_of([[3, 4]])
    with pytest.raises(ValueError, match="expected streams of bytes"):
        bigram_nats(corpus, corpus)


@pytest.mark.slow
def test_a_document_is_scored_the_same_alone_and_beside_others(task):
    corpus = corpus_of([[3, 2], [2, 1, 4, 3]], vocab_size=256)
    nats = {
        pack: task.evaluate(
            task.params, task.frozen, all_windows(corpus, seq=SEQ, batch=2, pack=pack)
        )
        for pack in (True, False)
    }
    assert 3 < nats[False] < 8
    np.testing.assert_allclose(nats[True], nats[False], rtol=1e-5)


def test_clients_whose_last_share_has_no_target_are_not_held_out():
    corpus = corpus_of([[3, 3], [2], [4, 4]], counted=[True] * 10 + [False] * 6)
    split = hold_out(corpus, seed=0, clients=0.0, examples=0.5)
    assert split.train.names == corpus.names
    assert split.heldout.names == ("client 00",)
    stream = Corpus(("a", "b"), np.arange(33, dtype=np.uint8), np.array([0, 30, 33]))
    assert hold_out(stream, seed=0, clients=0.0, examples=0.34).heldout.names == ("a",)
