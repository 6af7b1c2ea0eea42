"""The secret of a private run, from which its noise and its cohorts are drawn."""

import hashlib
import hmac
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_kind
from jaxtyping import Array, Key

_BYTES = 16
"""Fewest bytes of a secret: 128 bits."""
_MAKE_ONE = "python -c 'import secrets; print(secrets.token_hex(32))' > FILE makes one"


class Secret:
    """Random bytes that whoever sees the released model must not know.

    Noise that anyone can draw again protects nothing, so that it must not come from the seed of a
    run, which is published. Each purpose and round has a key of its own: the first 64 bits of
    HMAC-SHA256 of both under the secret. One of them tells nothing of another.

    The secret is in no state, checkpoint or row, and its text is never shown; rows have its
    `digest`. A run resumes with the same secret, to the same bits: no noise is drawn twice for
    different answers. Two runs that differ in anything else must not share a secret: the difference
    of their models would be free of noise.

    JAX's generator is no cryptographic one, and a round's key has 64 bits: this simulates the
    mechanism, and protects against those who do not search 2^64 keys.

    Args:
        value: At least 16 random bytes.

    Raises:
        TypeError: For anything but bytes.
        ValueError: For fewer bytes.

    Example:
        >>> from fedjax_llm.privacy import Secret
        >>> secret = Secret(bytes(range(32)))
        >>> secret, len(secret.digest)
        (Secret(...), 64)
        >>> secret.key("noise", 1) == secret.key("noise", 1)
        Array(True, dtype=bool)
        >>> secret.key("noise", 1) == secret.key("noise", 2)
        Array(False, dtype=bool)

    """

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, bytes):
            raise TypeError(
                f"Secret: value: expected bytes, got a {type(value).__name__}; "
                "secrets.token_bytes(32) makes them."
            )
        if len(value) < _BYTES:
            raise ValueError(
                f"Secret: value: expected at least {_BYTES} random bytes, got {len(value)}; "
                "secrets.token_bytes(32) makes them."
            )
        self._value = value

    def __repr__(self) -> str:
        return "Secret(...)"

    @property
    def digest(self) -> str:
        """SHA-256 by which two secrets are told apart; it does not give the secret away."""
        return self._hash("digest").hex()

    def bound(self, context: str) -> "Secret":
        """Derive a secret for one use alone.

        Args:
            context: What tells the use apart, such as a run's configuration: two contexts have
                unrelated secrets.

        Returns:
            The secret.

        """
        return Secret(self._hash(f"bound {context}"))

    def key(self, purpose: str, number: int) -> Key[Array, ""]:
        """The key of a purpose in a round.

        Args:
            purpose: Such as "noise".
            number: The number of the round.

        Returns:
            The key.

        """
        words = np.frombuffer(self._hash(f"{purpose} {number}")[:8], ">u4").astype(np.uint32)
        return jr.wrap_key_data(jnp.asarray(words), impl="threefry2x32")

    def _hash(self, text: str) -> bytes:
        return hmac.digest(self._value, text.encode(), hashlib.sha256)


def read_secret(path: Path) -> Secret:
    """Read a secret from a file that holds at least 32 hexadecimal digits.

    Args:
        path: The file.

    Returns:
        The secret.

    Raises:
        TypeError: For a path of another kind.
        ValueError: For a file that is missing or holds something else, which is not shown.

    Example:
        >>> import pathlib, tempfile
        >>> from fedjax_llm.privacy import read_secret
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "secret"
        ...     _ = path.write_text("00112233445566778899aabbccddeeff")
        ...     read_secret(path)
        Secret(...)

    """
    check_kind(path, Path, who="read_secret", name="path", expected="a pathlib.Path")
    try:
        value = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise ValueError(
            f"read_secret: path: expected a file with a secret, got {str(path)!r}: "
            f"{error.strerror}; {_MAKE_ONE}."
        ) from None
    except ValueError:  # neither shown nor chained: it would quote the file
        value = b""
    if len(value) < _BYTES:
        raise ValueError(
            f"read_secret: path: expected at least {2 * _BYTES} hexadecimal digits and nothing "
            f"else in {str(path)!r}, got other text; {_MAKE_ONE}."
        )
    return Secret(value)
