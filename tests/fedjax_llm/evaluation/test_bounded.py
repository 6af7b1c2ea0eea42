"""An evaluation is bounded in clients and rows, and told and ended between batches."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_llm.data import Corpus, byte_corpus
from fedjax_llm.evaluation import bounded, by_client, by_own_model
from fedjax_llm.tasks import Scores


def count(params, frozen, batch):
    """One for each target."""
    return Scores(*[batch.mask.sum(axis=-1, dtype=jnp.float32)] * 2)


def of(*sizes):
    return byte_corpus({f"c{i}": "x" * size for i, size in enumerate(sizes)})


def test_within_its_bounds_data_are_whole():
    corpus = of(100, 50, 20)
    part = bounded(corpus, rows=100, clients=3, seq=10, seed=0)
    assert part.names == corpus.names
    assert part.tokens.tobytes() == corpus.tokens.tobytes()


def test_every_client_gives_the_same_share_of_its_text():
    """10 + 5 + 2 windows of 10 tokens, of which 8 are asked for: 8/17 of each client."""
    part = bounded(of(101, 51, 21), rows=8, clients=3, seq=10, seed=0)
    assert part.pieces().tolist() == [47, 24, 9]  # 101 * 8 // 17, and so on
    assert part.rows([0, 1, 2], seq=10).counts.sum() <= 8 + 3


def test_clients_are_drawn_by_the_seed_and_never_more_than_rows():
    corpus = of(*[40] * 30)
    drawn = [bounded(corpus, rows=99, clients=4, seq=50, seed=seed).names for seed in range(20)]
    assert {len(names) for names in drawn} == {4}
    assert len({name for names in drawn for name in names}) > 20
    assert drawn[3] == bounded(corpus, rows=99, clients=4, seq=50, seed=3).names
    assert len(bounded(corpus, rows=3, clients=30, seq=50, seed=0).names) == 3


def test_clients_without_targets_are_left_out():
    corpus = Corpus(("a", "b"), np.zeros(4, np.uint8), np.array([0, 1, 4]))
    assert bounded(corpus, rows=9, clients=2, seq=2, seed=0).names == ("b",)
    none = Corpus(("a",), np.zeros(1, np.uint8), np.array([0, 1]))
    assert bounded(none, rows=9, clients=2, seq=2, seed=0).names == ()


def test_a_measure_tells_its_rows_and_ends_when_told():
    corpus, told = of(31, 21, 41), []  # 3, 2 and 4 windows of 10 tokens

    def two_batches(done, rows):
        told.append((done, rows))
        return done < 4

    part = by_client(count, {}, {}, corpus, seq=10, batch=2, go_on=two_batches)
    assert told == [(0, 9), (2, 9), (4, 9)]
    assert part.counts.tolist() == [30, 10, 0]
    told.clear()
    own = by_own_model(count, lambda name: {}, {}, corpus, seq=10, batch=2, go_on=two_batches)
    assert own.counts.tolist() == [30, 20, 0]  # the second batch of two is the second client's
    assert told[-1] == (5, 9)
    whole = by_client(count, {}, {}, corpus, seq=10, batch=2, go_on=lambda done, rows: True)
    assert whole.counts.tolist() == [30, 20, 40]


def test_bounds_are_checked():
    with pytest.raises(ValueError, match="bounded: rows: expected an integer at least 1, got 0"):
        bounded(of(30), rows=0, clients=1, seq=10, seed=0)
