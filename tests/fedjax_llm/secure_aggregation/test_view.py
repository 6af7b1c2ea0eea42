"""All that the server sees fits any integers with the same sum, and is then as likely.

A mask stream is the value of a random function at its key. Where that function is uniform, adding
constants to its values at some keys leaves it uniform. So: for other integers with the same sum,
such constants are solved for, and the round run again with them gives every message bit for bit.
"""

import numpy as np
import pytest

from fedjax_llm.secure_aggregation import client as client_module
from fedjax_llm.secure_aggregation import run_round
from fedjax_llm.secure_aggregation import server as server_module
from tests.helpers.secure_rounds import Lossy, integers_of, seeded, setup_of


class Oracle:
    """A uniform function from keys to vectors in place of the stream; remembers who asked."""

    def __init__(self, entries, shifts):
        self.entries, self.shifts = entries, shifts
        self.client = None
        self.asked = {}

    def stream(self, key):
        rng = np.random.default_rng(list(key))
        drawn = rng.integers(0, 2**32, self.entries, dtype=np.uint64).astype(np.int64)
        return drawn + self.shifts.get(key, 0)

    def add_stream(self, total, key, *, subtract=False):
        sign = -1 if subtract else 1
        total += (sign * self.stream(key)).astype(total.dtype)
        if self.client is not None:
            self.asked.setdefault(key, {})[self.client] = sign


class Watched(Lossy):
    def __init__(self, lost, oracle):
        super().__init__(lost)
        self.oracle = oracle

    def __call__(self, step, direction, client, message):
        masking = (step, direction) == ("mask", "down")
        self.oracle.client = client if masking else None
        return super().__call__(step, direction, client, message)


def transcript(setup, integers, lost, shifts, monkeypatch):
    oracle = Oracle(setup.entries, shifts)
    for module in (client_module, server_module):
        monkeypatch.setattr(module, "add_stream", oracle.add_stream)
    watched = Watched(lost, oracle)
    result = run_round(setup, integers, deliver=watched, random=seeded(5))
    return result, watched.sent, oracle.asked


def shifts_between(asked, hidden, differences):
    """Constants for masks that two hidden clients share, by a tree; and what is left at its root.

    `differences[u]` must be added to what client u sends.
    """
    edges = {}
    for key, signs in asked.items():
        if len(signs) == 2 and set(signs) <= hidden:
            one, other = signs
            edges.setdefault(one, []).append((other, key, signs))
            edges.setdefault(other, []).append((one, key, signs))
    root = min(hidden)
    order, above = [root], {root: None}
    for u in order:
        for v, key, signs in edges.get(u, []):
            if v not in above:
                above[v] = (u, key, signs)
                order.append(v)
    assert set(order) == hidden, "the hidden clients fall apart"
    left, shifts = {u: differences[u].astype(np.int64) for u in hidden}, {}
    for u in reversed(order[1:]):
        parent, key, signs = above[u]
        shifts[key] = signs[u] * left[u]  # u sends signs[u] * shift more
        left[parent] = left[parent] - signs[parent] * shifts[key]
    return shifts, left[root]


@pytest.mark.parametrize(
    ("degree", "corrupt", "lost"),
    [
        (5, {3}, {1: ("mask", "up"), 4: ("unmask", "up")}),
        (2, set(), {}),
        (4, {0}, {5: ("mask", "up")}),
    ],
)
def test_other_integers_with_the_same_sum_give_the_same_view(degree, corrupt, lost, monkeypatch):
    """The server with some clients' secrets: of the others it sees nothing but their sum."""
    setup = setup_of(6, degree=degree, threshold=2, entries=9, bits=11)
    integers = integers_of(setup._replace(bits=8))  # the client that makes up for others has room
    before = (("mask", "up"), ("mask", "down"))
    hidden = {u for u in integers if u not in corrupt and lost.get(u) not in before}
    chosen = min(hidden)
    rng = np.random.default_rng(1)
    others = {u: rng.integers(-20, 20, setup.entries) for u in integers}
    others |= {u: integers[u] for u in corrupt}
    others[chosen] = sum(integers[u] for u in hidden) - sum(others[u] for u in hidden - {chosen})
    result, sent, asked = transcript(setup, integers, lost, {}, monkeypatch)
    assert all((others[u] != integers[u]).any() for u in hidden)

    differences = {u: integers[u] - others[u] for u in hidden}
    shifts, remaining = shifts_between(asked, hidden, differences)
    assert not remaining.any()
    for u in {u for u, place in lost.items() if place == ("mask", "up")}:
        (own,) = (key for key, signs in asked.items() if set(signs) == {u})
        shifts[own] = integers[u] - others[u]  # the mask of its own, which nobody reveals
    again, sent_again, _ = transcript(setup, others, lost, shifts, monkeypatch)
    assert sent == sent_again  # late messages too, which the server may have got after all
    np.testing.assert_array_equal(result.sum.total, again.sum.total)

    # another sum leaves something over, and another view
    differences[chosen] = differences[chosen] + 1
    shifts, remaining = shifts_between(asked, hidden, differences)
    assert remaining.all()
    others[chosen] = others[chosen] - 1
    _, sent_again, _ = transcript(setup, others, lost, shifts, monkeypatch)
    assert sent["mask", "up", chosen] != sent_again["mask", "up", chosen]
