"""Degrees and thresholds against exact probabilities, computed in another way."""

import itertools
import math
from fractions import Fraction

import pytest
from scipy import stats

from fedjax_llm.secure_aggregation import choose_degree
from fedjax_llm.secure_aggregation.degrees import expected_pairs


def tail(others, marked, draws, at_least):
    """P(at least so many marked in draws without replacement), one draw after the other."""
    chance = [Fraction(1)] + [Fraction(0)] * draws  # by the number of marked so far
    for drawn in range(draws):
        new = [Fraction(0)] * (draws + 1)
        for found, p in enumerate(chance):
            if p:
                hit = Fraction(marked - found, others - drawn)
                if hit:
                    new[found + 1] += p * hit
                new[found] += p * (1 - hit)
        chance = new
    return sum(chance[at_least:])


def meets(clients, bad, gone, degree, threshold):
    exposed = (clients - bad) * tail(clients - 1, bad, degree, threshold) <= Fraction(1, 2**40)
    ends = clients * tail(clients - 1, gone, degree, degree - threshold + 1) <= Fraction(1, 2**20)
    return exposed, ends


@pytest.mark.parametrize(
    ("clients", "corrupt", "dropout"), [(40, 0.1, 0.1), (64, 0.1, 0.2), (100, 0.05, 0.05)]
)
def test_both_tails_are_met_and_by_no_smaller_degree(clients, corrupt, dropout):
    bad, gone = math.ceil(corrupt * clients), math.floor(dropout * clients)
    degree, threshold = choose_degree(clients, corrupt=corrupt, dropout=dropout)
    assert meets(clients, bad, gone, degree, threshold) == (True, True)
    assert threshold == 2 or not meets(clients, bad, gone, degree, threshold - 1)[0]
    smaller = degree - 2
    assert not (
        expected_pairs(clients, bad + gone, smaller) <= Fraction(1, 2**40)
        and any(all(meets(clients, bad, gone, smaller, t)) for t in range(2, smaller + 1))
    )


@pytest.mark.parametrize(
    ("clients", "both", "published"),
    [
        (100, 0.05, (12, 6)),
        (100, 0.1, (22, 11)),
        (1000, 0.05, (30, 17)),
        (1000, 0.1, (48, 27)),
        (10_000, 0.05, (34, 20)),
        (10_000, 0.1, (54, 31)),
    ],
)
def test_values_of_another_finder_for_the_same_protocol(clients, both, published):
    """Within two of what Google's implementation of the paper finds; and by scipy's tails."""
    degree, threshold = choose_degree(clients, corrupt=both, dropout=both)
    assert abs(degree - published[0]) <= 2
    assert abs(threshold - published[1]) <= 2
    marked = round(both * clients)
    drawn = stats.hypergeom(clients - 1, marked, degree)
    assert (clients - marked) * drawn.sf(threshold - 1) <= 2**-40 * (1 + 1e-6)
    assert clients * drawn.sf(degree - threshold) <= 2**-20 * (1 + 1e-6)


def falls_apart(places, count, degree):
    """Whether clients at these places of a circle are in more than one part, by search."""
    left = set(places)
    found, edge = {places[0]}, [places[0]]
    while edge:
        at = edge.pop()
        for step in range(1, degree // 2 + 1):
            for other in ((at + step) % count, (at - step) % count):
                if other in left and other not in found:
                    found.add(other)
                    edge.append(other)
    return found != left


def long_gaps(places, count, degree):
    """Gaps between neighbouring places that have at least degree / 2 others in them."""
    after = [*places[1:], places[0] + count]
    return sum(other - at > degree // 2 for at, other in zip(places, after, strict=True))


@pytest.mark.parametrize(("degree", "lost"), [(2, 2), (2, 5), (4, 4), (4, 6), (4, 3)])
def test_a_graph_falls_apart_only_with_a_pair_of_gaps(degree, lost):
    """Against all ways to lose so many of twelve clients."""
    count = 12
    kept = list(itertools.combinations(range(count), count - lost))
    gaps = [long_gaps(places, count, degree) for places in kept]
    for places, number in zip(kept, gaps, strict=True):
        assert falls_apart(places, count, degree) == (number >= 2)
    pairs = Fraction(sum(math.comb(number, 2) for number in gaps), len(kept))
    assert expected_pairs(count, lost, degree) == pairs


def test_no_graph_is_enough_where_too_many_are_corrupt():
    with pytest.raises(ValueError, match="corrupt and dropout: expected fewer with 10 clients"):
        choose_degree(10, corrupt=0.8, dropout=0.1)
    assert choose_degree(5, corrupt=0.4, dropout=0.2).degree == 4  # all pairs
