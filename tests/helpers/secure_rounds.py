"""Secure sums with seeded bytes, and what goes through them."""

import hashlib

import numpy as np

from fedjax_llm.secure_aggregation import Setup

ROUND = bytes(range(16))


def seeded(seed):
    """A source of bytes that repeats: SHA-256 of a counter."""
    count = 0

    def random(length):
        nonlocal count
        out = b""
        while len(out) < length:
            out += hashlib.sha256(f"{seed} {count}".encode()).digest()
            count += 1
        return out[:length]

    return random


def setup_of(clients, *, degree=None, threshold=None, entries=11, bits=8):
    degree = clients - 1 if degree is None else degree
    return Setup(ROUND, entries, bits, clients, degree, threshold or degree // 2 + 1)


def integers_of(setup, seed=0):
    """Random integers over their whole range, which both ends of are in."""
    rng = np.random.default_rng(seed)
    half = 2 ** (setup.bits - 1)
    drawn = rng.integers(-half, half, (setup.clients, setup.entries), dtype=np.int64)
    drawn[:, 0], drawn[:, 1] = -half, half - 1
    return dict(enumerate(drawn))


def wrapped(total, width):
    """A sum modulo 2^width as a signed integer, by Python's integers."""
    half = 1 << (width - 1)
    return [(int(x) + half) % (1 << width) - half for x in total]


class Lossy:
    """Loses the message of each client in the step and direction that is named for it."""

    def __init__(self, lost):
        self.lost = lost
        self.sent = {}

    def __call__(self, step, direction, client, message):
        self.sent[step, direction, client] = message
        return None if self.lost.get(client) == (step, direction) else message
