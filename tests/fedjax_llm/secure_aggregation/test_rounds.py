"""Sums over whole rounds: exact for every drop-out that is allowed, nothing for one more."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fedjax_llm.secure_aggregation import SecureAggregationError, run_round
from tests.helpers.secure_rounds import Lossy, integers_of, seeded, setup_of, wrapped

PLACES = [
    *(("advertise", "up"), ("share", "down"), ("share", "up")),
    *(("mask", "down"), ("mask", "up"), ("unmask", "down"), ("unmask", "up")),
]


def check_sum(setup, lost, seed=0):
    """Run with messages lost, and compare with the sum of those whose integers arrived."""
    integers = integers_of(setup, seed)
    lossy = Lossy(lost)
    result = run_round(setup, integers, deliver=lossy, random=seeded(seed))
    before = PLACES.index(("unmask", "down"))
    survivors = [u for u in integers if u not in lost or PLACES.index(lost[u]) >= before]
    assert result.sum.survivors == tuple(survivors)
    assert result.refused == {}
    plain = [sum(int(integers[u][i]) for u in survivors) for i in range(setup.entries)]
    assert result.sum.total.tolist() == plain == wrapped(plain, setup.width)
    return lossy


@pytest.mark.parametrize("place", [None, *PLACES])
def test_the_sum_is_exact_for_a_drop_out_at_any_message(place):
    setup = setup_of(5, threshold=2)
    check_sum(setup, {} if place is None else {0: place, 3: place})


@pytest.mark.parametrize("bits", [2, 13, 14, 29])
def test_every_width_of_the_modulus(bits):
    """From 4 to 32 bits, in words of 16 and of 32; the largest sums have no room to spare."""
    setup = setup_of(4, bits=bits, entries=9)._replace(clients=8, degree=6, threshold=2)
    check_sum(setup, {1: ("mask", "up")} if bits % 2 else {})


def test_the_sum_of_the_extremes_does_not_wrap():
    setup = setup_of(4, bits=6, entries=2)
    extremes = {u: np.array([-32, 31]) for u in range(4)}
    assert run_round(setup, extremes, random=seeded(0)).sum.total.tolist() == [-128, 124]


@pytest.mark.parametrize("step", ["share", "mask", "unmask"])
def test_one_drop_out_more_than_the_threshold_allows_ends_the_round(step):
    """Five of six need three neighbours each; with two left nobody is asked for a share."""
    setup = setup_of(6, threshold=3)
    check_sum(setup, dict.fromkeys((3, 4), (step, "up")))  # four are left, three for each
    lossy = Lossy(dict.fromkeys((3, 4, 5), (step, "up")))
    with pytest.raises(SecureAggregationError, match="expected 3 neighbours of each client"):
        run_round(setup, integers_of(setup), deliver=lossy, random=seeded(0))
    asked = {where for where in lossy.sent if where[0] == "unmask" and where[1] == "down"}
    assert bool(asked) == (step == "unmask")


def test_a_sparse_graph_sums_exactly():
    setup = setup_of(12, degree=4, threshold=2)
    check_sum(setup, {1: ("advertise", "up"), 4: ("share", "up"), 8: ("mask", "up")})


def test_bytes_are_those_of_the_formula():
    """Keys, two sealed shares and their number for each neighbour, and the modulus's bits."""
    setup = setup_of(6, entries=20_000, bits=10)
    assert setup.width == 13
    lossy = check_sum(setup, {})
    up = {step: len(m) for (step, way, u), m in lossy.sent.items() if way == "up" and u == 2}
    head, near = 12 + 16 + 4, 5
    assert up == {
        "advertise": head + 2 * 32,
        "share": head + 32 + near * (4 + 2 * 33 + 16),
        "mask": head + 20_000 * 13 // 8,
        "unmask": head + near * (4 + 33),
    }
    down = {step: len(m) for (step, way, u), m in lossy.sent.items() if way == "down" and u == 2}
    assert down == {
        "share": head + near * (4 + 2 * 32),
        "mask": head + near * (4 + 2 * 33 + 16),
        "unmask": head + near * (4 + 1),
    }
    assert sum(up.values()) < 1.03 * 20_000 * 13 / 8


def test_what_the_server_receives_is_uniform():
    """Integers that are all zero: chi-squared of the masked ones, by two halves of their bits."""
    setup = setup_of(3, entries=30_000, bits=6)  # a modulus of 8 bits, a byte each
    lossy = Lossy({})
    zeros = {u: np.zeros(setup.entries, np.int64) for u in range(3)}
    assert not run_round(setup, zeros, deliver=lossy, random=seeded(1)).sum.total.any()
    masked = [
        np.frombuffer(lossy.sent["mask", "up", u][32:], np.uint8).astype(int) for u in range(3)
    ]
    for values in (*masked, masked[0] - masked[1], masked[1] + masked[2]):
        for part in (values % 16, values // 16 % 16, values * 7 % 256 // 16):
            counts = np.bincount(part, minlength=16)
            assert stats.chisquare(counts).pvalue > 1e-4
    assert max(values.max() for values in masked) == 255  # the largest value occurs


@pytest.mark.slow
def test_64_clients_up_to_the_threshold_in_every_step():
    """All pairs, threshold 33: 34 of 64 must be left; in turn at each message, and spread."""
    setup = setup_of(64, threshold=33, entries=7, bits=16)
    for place in PLACES:
        check_sum(setup, dict.fromkeys(range(30), place))
    spread = dict(zip(range(10, 40), itertools.cycle(PLACES), strict=False))
    check_sum(setup, spread)
    for place in (("share", "up"), ("mask", "up"), ("unmask", "up")):
        with pytest.raises(SecureAggregationError, match="expected"):
            run_round(
                *(setup, integers_of(setup)),
                deliver=Lossy(dict.fromkeys(range(31), place)),
                random=seeded(0),
            )


@pytest.mark.slow
def test_400_clients_on_a_sparse_graph():
    """Drop-outs drawn at random, a twentieth of the clients, at random messages."""
    setup = setup_of(400, degree=28, threshold=15, entries=50, bits=16)
    rng = np.random.default_rng(0)
    gone = rng.choice(400, 20, replace=False).tolist()
    check_sum(setup, {u: PLACES[rng.integers(len(PLACES))] for u in gone})
