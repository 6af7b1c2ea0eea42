"""Who is held out, and which pieces: values worked by hand."""

import numpy as np
import pytest

from fedjax_llm.data import Corpus, byte_corpus, hold_out
from fedjax_llm.data.unseen import last, matching, named, share


def documents(*sizes):
    """A corpus of one client for each list of documents' sizes."""
    ends = np.cumsum([0, *(size for client in sizes for size in client)])
    offsets = np.cumsum([0, *map(sum, sizes)])
    names = tuple(f"c{i}" for i in range(len(sizes)))
    return Corpus(names, np.arange(ends[-1], dtype=np.uint8), offsets, documents=ends)


def test_a_client_of_two_pieces_gives_one():
    """A tenth of 1, 2, 9, 10, 19 and 20 pieces, rounded down, but one where there are two."""
    corpus = documents(*([2] * count for count in (1, 2, 9, 10, 19, 20)))
    split = hold_out(corpus, seed=0, clients=0.0)
    assert split.heldout.names == ("c1", "c2", "c3", "c4", "c5")
    assert split.heldout.pieces().tolist() == [1, 1, 1, 1, 2]
    assert split.train.pieces().tolist() == [1, 1, 8, 9, 18, 18]
    assert hold_out(corpus, seed=0, clients=0.0, examples=0.0).heldout.names == ()


def test_a_client_keeps_what_it_needs_to_train():
    """The first document of one token has no target, so the second stays beside it."""
    split = hold_out(documents([1, 4], [3, 4]), seed=0, clients=0.0)
    assert split.train.pieces().tolist() == [2, 1]
    assert split.heldout.names == ("c1",)


def test_clients_are_held_out_by_name():
    corpus = byte_corpus({name: name * 40 for name in ("ann", "bob", "test_1", "test_2")})
    for choice, unseen in (
        (named("bob", "ann"), ("ann", "bob")),
        (last(1), ("test_2",)),
        (matching("test_?"), ("test_1", "test_2")),
    ):
        for seed in (0, 1):
            split = hold_out(corpus, seed=seed, clients=choice(corpus.names))
            assert split.unseen_clients.names == unseen
            assert set(split.train.names) == set(corpus.names) - set(unseen)
    assert len(hold_out(corpus, seed=0, clients=share(0.5)(corpus.names)).unseen_clients.names) == 2


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        (["eve"], "hold_out: clients: expected names of clients, got 'eve'; names are such as 'an"),
        (["ann", "bob"], "clients: expected to leave a client for training, got all 2"),
        (1.0, "hold_out: clients: expected a number at least 0 and below 1, got 1.0"),
    ],
)
def test_clients_that_cannot_be_held_out_are_refused(clients, message):
    corpus = byte_corpus({name: name * 40 for name in ("ann", "bob")})
    with pytest.raises(ValueError, match=message):
        hold_out(corpus, seed=0, clients=clients)


def test_choices_are_checked():
    with pytest.raises(ValueError, match="matching: pattern: expected one that a client's name"):
        matching("x*")(["ann"])
    with pytest.raises(ValueError, match="last: count: expected an integer at least 1, got 0"):
        last(0)
    with pytest.raises(ValueError, match="named: names: expected at least one client's name"):
        named()
