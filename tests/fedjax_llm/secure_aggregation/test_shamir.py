"""Shares against the definition: values of a polynomial modulo a prime."""

import itertools
import os

import pytest

from fedjax_llm.secure_aggregation import SecureAggregationError, combine, split
from fedjax_llm.secure_aggregation.shamir import PRIME
from tests.helpers.secure_rounds import seeded

SECRET = bytes(range(200, 232))


def test_the_prime_is_the_first_after_the_secrets():
    """Miller-Rabin with 40 bases: an odd number that is not prime passes one in four at most."""

    def is_prime(n):
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in range(2, 42):
            powers = [pow(base, odd << i, n) for i in range(twos)]
            if powers[0] != 1 and n - 1 not in powers:
                return False
        return True

    assert is_prime(PRIME)
    assert not any(is_prime(n) for n in range(2**256 + 1, PRIME, 2))


def test_shares_are_values_of_a_polynomial_through_the_secret():
    random, again = seeded("polynomial"), seeded("polynomial")
    shares = split(SECRET, [1, 7, 2**32], threshold=3, random=random)
    # coefficients of x^2 and x, each from 41 bytes
    second, first = (int.from_bytes(again(41), "big") for _ in range(2))
    for x, share in zip([1, 7, 2**32], shares, strict=True):
        expected = (second * x**2 + first * x + int.from_bytes(SECRET, "big")) % PRIME
        assert int.from_bytes(share, "big") == expected


def test_any_as_many_as_the_threshold_give_the_secrets_and_fewer_do_not():
    holders, other = [3, 1, 4, 15, 9, 2], os.urandom(32)
    shares = split(SECRET, holders, threshold=4, random=os.urandom)
    of_other = split(other, holders, threshold=4, random=os.urandom)
    for count in (4, 5, 6):
        for chosen in itertools.permutations(range(6), count):
            if count < 6 or chosen[0] == 0:
                given = [[of[i] for i in chosen] for of in (shares, of_other)]
                if sum(chosen[:2]) % 3 == 0:  # a third of them, to save time
                    assert combine([holders[i] for i in chosen], given) == [SECRET, other]
    for chosen in itertools.combinations(range(6), 3):
        try:
            (got,) = combine([holders[i] for i in chosen], [[shares[i] for i in chosen]])
        except SecureAggregationError:
            continue
        assert got != SECRET


def test_fewer_shares_fit_every_secret():
    """With any other secret there is a polynomial through the same threshold - 1 shares."""
    shares = split(SECRET, [1, 2, 3], threshold=3, random=os.urandom)
    y1, y2 = (int.from_bytes(share, "big") for share in shares[:2])
    for secret in (bytes(32), bytes([255] * 32), os.urandom(32)):
        c = int.from_bytes(secret, "big")
        # a x^2 + b x + c through (1, y1) and (2, y2)
        a = (y2 - 2 * y1 + c) * pow(2, -1, PRIME) % PRIME
        y3 = (9 * a + 3 * (y1 - a - c) + c) % PRIME
        forged = y3.to_bytes(33, "big")
        assert combine([1, 2, 3], [[shares[0], shares[1], forged]]) == [secret]


@pytest.mark.parametrize(
    "call",
    [
        lambda: combine([1, 2], [[bytes(33), bytes(32)]]),
        lambda: combine([1, 2], [[bytes(33), PRIME.to_bytes(33, "big")]]),
        lambda: combine([1, 2], [[bytes(33), bytes(32) + b"\x01"]]),
    ],
)
def test_shares_that_nobody_made_are_refused(call):
    with pytest.raises(SecureAggregationError, match="expected"):
        call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: split(bytes(31), [1], threshold=1, random=os.urandom),
            "split: secret: expected 32 bytes, got 31.",
        ),
        (
            lambda: split(bytes(32), [1, 1], threshold=1, random=os.urandom),
            "split: holders: expected distinct numbers, got [1, 1].",
        ),
        (
            lambda: split(bytes(32), [0, 1], threshold=1, random=os.urandom),
            "split: holders: expected an integer at least 1 and at most 4294967296, got 0.",
        ),
        (
            lambda: split(bytes(32), [1, 2], threshold=3, random=os.urandom),
            "split: threshold: expected an integer at least 1 and at most 2, got 3.",
        ),
        (
            lambda: combine([1, 2], [[bytes(33)]]),
            "combine: shares: expected 2 shares of each secret, one of each holder, got 1.",
        ),
    ],
)
def test_wrong_arguments_are_named(call, text):
    with pytest.raises(ValueError, match="expected") as raised:
        call()
    assert str(raised.value) == text
