"""Shamir's secret sharing (Shamir 1979, doi:10.1145/359168.359176) modulo a prime of 257 bits."""

from collections.abc import Callable, Sequence

from fedjax_compression.checks import check_integer, check_kind
from fedjax_compression.errors import message

from .errors import SecureAggregationError

PRIME = 2**256 + 297
"""The smallest prime above 2^256, so that every secret of 32 bytes is an element of the field."""
SECRET_BYTES = 32
"""Length of a secret."""
SHARE_BYTES = 33
"""Length of a share: one element of the field, big-endian."""

RandomBytes = Callable[[int], bytes]
"""`(count) -> bytes`: a source of random bytes, such as `os.urandom`."""


def split(
    secret: bytes, holders: Sequence[int], *, threshold: int, random: RandomBytes
) -> list[bytes]:
    """Share a secret, so that any `threshold` shares give it and fewer tell nothing of it.

    The share of holder x is f(x) for a polynomial f of degree threshold - 1 with f(0) the secret
    and the other coefficients uniform.

    Args:
        secret: 32 bytes.
        holders: Numbers of those who get a share, distinct and from 1 to 2^32.
        threshold: Shares that give the secret, from 1 to the number of holders.
        random: Source of random bytes: `os.urandom`, or a seeded one in a test.

    Returns:
        A share of 33 bytes for each holder, in their order.

    Raises:
        TypeError: For a secret that is not bytes.
        ValueError: For a secret of another length, holders that are not such numbers, or a
            threshold out of range.

    Example:
        >>> import os
        >>> from fedjax_llm.secure_aggregation import combine, split
        >>> secret = b"0123456789abcdef0123456789abcdef"
        >>> shares = split(secret, [1, 2, 3], threshold=2, random=os.urandom)
        >>> combine([3, 1], [[shares[2], shares[0]]]) == [secret]
        True

    """
    check_kind(secret, bytes, who="split", name="secret", expected="bytes")
    if len(secret) != SECRET_BYTES:
        raise ValueError(message("split", "secret", f"{SECRET_BYTES} bytes", len(secret)))
    _check_holders(holders, who="split")
    check_integer(threshold, who="split", name="threshold", at_least=1, at_most=len(holders))
    coefficients = [_element(random) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))  # the highest power first
    shares = []
    for x in holders:
        value = 0
        for coefficient in coefficients:
            value = (value * x + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def combine(holders: Sequence[int], shares: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Interpolate secrets at 0 from shares of the same holders.

    As many shares as the threshold are enough; with fewer, the result is a random secret or an
    error. A wrong share gives a wrong secret, which this function cannot tell.

    Args:
        holders: Numbers of those whose shares these are, distinct and from 1 to 2^32.
        shares: For each secret, the shares of the holders in their order, of 33 bytes each.

    Returns:
        The secrets, of 32 bytes each.

    Raises:
        ValueError: For holders that are not such numbers, or shares of another number.
        SecureAggregationError: For a share that `split` cannot have made, and for shares that
            belong to no secret of 32 bytes.

    Example:
        >>> from fedjax_llm.secure_aggregation import combine
        >>> combine([1, 2], [[bytes(33), bytes(32) + bytes([1])]])  # 0 and 1 are on x - 1
        Traceback (most recent call last):
        ...
        fedjax_llm.secure_aggregation.errors.SecureAggregationError: combine: shares: expected \
shares of one secret of 32 bytes, got others.

    """
    _check_holders(holders, who="combine")
    factors = _at_zero(holders)
    secrets = []
    for of_one in shares:
        if len(of_one) != len(holders):
            expected = f"{len(holders)} shares of each secret, one of each holder"
            raise ValueError(message("combine", "shares", expected, len(of_one)))
        total = sum(f * read_share(s) for f, s in zip(factors, of_one, strict=True)) % PRIME
        if total >= 2 ** (8 * SECRET_BYTES):
            raise SecureAggregationError(
                f"combine: shares: expected shares of one secret of {SECRET_BYTES} bytes, got "
                "others."
            )
        secrets.append(total.to_bytes(SECRET_BYTES, "big"))
    return secrets


def read_share(share: bytes) -> int:
    """The element of the field; a `SecureAggregationError` for any bytes that are not one."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise SecureAggregationError(
            f"share: expected {SHARE_BYTES} bytes with a number below the prime, got "
            f"{len(share)} bytes{' with a larger one' if len(share) == SHARE_BYTES else ''}."
        )
    return value


def _element(random: RandomBytes) -> int:
    """A uniform element, from 64 bits more than it has: uniform to 2^-64."""
    return int.from_bytes(random(SHARE_BYTES + 8), "big") % PRIME


def _at_zero(holders: Sequence[int]) -> list[int]:
    """Lagrange factors at 0: product over the other holders y of y / (y - x), one inversion."""
    above, below = [], []
    for x in holders:
        top = bottom = 1
        for y in holders:
            if y != x:
                top = top * y % PRIME
                bottom = bottom * (y - x) % PRIME
        above.append(top)
        below.append(bottom)
    before = [1]
    for bottom in below:
        before.append(before[-1] * bottom % PRIME)
    inverse = pow(before[-1], -1, PRIME)
    factors = [0] * len(below)
    for i in reversed(range(len(below))):
        factors[i] = above[i] * inverse % PRIME * before[i] % PRIME
        inverse = inverse * below[i] % PRIME
    return factors


def _check_holders(holders: Sequence[int], *, who: str) -> None:
    if not holders:
        raise ValueError(message(who, "holders", "at least one", list(holders)))
    for x in holders:
        check_integer(x, who=who, name="holders", at_least=1, at_most=2**32)
    if len(set(holders)) < len(holders):
        raise ValueError(message(who, "holders", "distinct numbers", list(holders)))
