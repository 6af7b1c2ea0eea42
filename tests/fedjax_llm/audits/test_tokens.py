"""Which tokens an update of the embedding table reveals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import codec

from fedjax_llm.audits import recovery, revealed_tokens, row_distances

TOKENS = np.array([[3, 17, 3, 40], [99, 40, 17, 5]])
TRUE = {3, 5, 17, 40, 99}


def gradient(vocab=128, width=16):
    """Gradient of an embedding table by its definition: a sum over the places of each token."""
    random = np.random.default_rng(0)
    table = np.zeros((vocab, width), np.float32)
    for token in TOKENS.reshape(-1):
        table[token] += random.normal(size=width)
    return table


def test_a_plain_gradient_reveals_exactly_the_tokens():
    table = gradient()
    assert set(revealed_tokens(table).tolist()) == TRUE
    assert set(revealed_tokens(-1e-9 * table).tolist()) == TRUE  # an update of any rate
    assert recovery(revealed_tokens(table), TOKENS) == (1.0, 1.0, 5, 5)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["sign()", "blockwise_int(bits=8, block=64)", "eden(bits=1)"])
def test_a_codec_does_not_hide_the_tokens(text):
    """`sign` gives all rows one norm, but rows without a token decode to equal signs."""
    c, table = codec(text), jnp.asarray(gradient())
    payload, _ = c.encode(jax.random.key(0), table, c.init(table))
    assert set(revealed_tokens(c.decode(payload, table)).tolist()) == TRUE


def test_tied_embeddings_tell_targets_too_and_no_row_is_zero():
    """The output layer's part of the gradient, by the softmax's derivative, is in every row."""
    random = np.random.default_rng(5)
    targets, hidden = np.array([70, 80, 90]), random.normal(size=(3, 16))
    table = gradient().astype(float)
    for target, vector in zip(targets, hidden, strict=True):
        p = random.dirichlet(np.ones(128))
        p[target] -= 1
        table += p[:, None] * vector
    distances = row_distances(table)
    true = np.array([*TRUE, *targets])
    assert np.abs(table).min(axis=1).all()
    assert distances[true].min() > np.delete(distances, true).max()
    assert set(true.tolist()) <= set(revealed_tokens(table).tolist())


def test_distances_are_from_the_median_row():
    rows = np.array([[1.0, 1.0], [1.0, 1.0], [4.0, 5.0], [1.0, 1.0], [1.0, -1.0]])
    np.testing.assert_array_equal(row_distances(rows), [0.0, 0.0, 5.0, 0.0, 2.0])
    assert row_distances(rows.astype(jnp.bfloat16)).dtype == np.float64


def test_the_threshold_is_in_standard_deviations_of_the_noise():
    """Distances of 1,001 rows: those of a half-normal are above 6 deviations by definition."""
    random = np.random.default_rng(1)
    noise = np.abs(random.normal(size=1001)) * random.choice([-1, 1], 1001)
    distances = np.abs(noise - np.median(noise))
    middle = np.median(distances)
    limit = middle + 2.5 * 1.4826 * np.median(np.abs(distances - middle))
    expected = np.flatnonzero(distances > limit)
    assert expected.size > 0
    np.testing.assert_array_equal(revealed_tokens(noise[:, None], deviations=2.5), expected)


def test_groups_of_rows_are_compared_apart():
    """One block of three is noise; a token in it stands out from the noise, not from zeros."""
    table = np.zeros((30, 64))
    table[10:20] = np.random.default_rng(2).normal(size=(10, 64))
    table[13] += 4
    assert revealed_tokens(table).tolist() == list(range(10, 20))
    assert revealed_tokens(table, group=10).tolist() == [13]
    assert revealed_tokens(table[:17], group=10).tolist() == [13]  # a last group of seven


def test_recovery_counts_different_ids():
    assert recovery([3, 3, 4], [[4, 4], [5, 6]]) == (0.5, 1 / 3, 2, 3)
    assert recovery([], [1, 2]) == (1.0, 0.0, 0, 2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: row_distances(np.zeros(3)), "update: expected numbers [vocab, width], got"),
        (lambda: row_distances([[np.nan, 1.0]]), "expected finite numbers [vocab, width], got a N"),
        (
            lambda: row_distances([["a"]]),
            "update: expected numbers [vocab, width], got <U1 [1, 1].",
        ),
        (lambda: row_distances([[1.0], [1.0, 2.0]]), "expected numbers [vocab, width], got [[1.0]"),
        (lambda: revealed_tokens(np.zeros((2, 2)), deviations=-1), "deviations: expected a number"),
        (
            lambda: revealed_tokens(np.zeros((2, 2)), group=2),
            "group: expected an integer at least 3",
        ),
        (lambda: recovery([0.5], [1]), "recovered: expected token ids of at least 0, got [0.5]"),
        (lambda: recovery([1], [-1]), "true: expected token ids of at least 0"),
        (lambda: recovery([1], []), "true: expected at least one token id, got none"),
    ],
)
def test_errors(call, text):
    with pytest.raises(ValueError, match=r"^\w+: ") as error:
        call()
    assert text in str(error.value)
