"""X25519 keys, keys derived from them, mask streams and sealed bytes, by `cryptography`."""

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np

from .errors import SecureAggregationError

KEY_BYTES = 32
"""Length of a private or public key of X25519."""
TAG_BYTES = 16
"""Bytes by which sealing makes a text longer."""
_STREAM_KEY_BYTES = 16
_CHUNK = 2**18
"""Bytes of a stream that are made at once: what stays in a processor's cache."""
_FIELD = 2**255 - 19
_CURVE = 486662


def cryptography() -> Any:
    """The parts of the package that are used; an error says how to install it."""
    try:
        from cryptography import exceptions  # noqa: PLC0415 (optional)
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import x25519  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers import (  # noqa: PLC0415
            Cipher,
            aead,
            algorithms,
            modes,
        )
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "cryptography":
            raise
        raise ModuleNotFoundError(
            "secure_aggregation: expected the package cryptography, which makes keys and masks, "
            "got none; pip install 'fedjax-llm[secure]'.",
            name="cryptography",
        ) from None
    return SimpleNamespace(
        InvalidTag=exceptions.InvalidTag,
        PrivateKey=x25519.X25519PrivateKey,
        PublicKey=x25519.X25519PublicKey,
        Cipher=Cipher,
        AESGCM=aead.AESGCM,
        AES=algorithms.AES,
        CTR=modes.CTR,
        HKDF=HKDF,
        SHA256=hashes.SHA256,
    )


def public_key(private: bytes) -> bytes:
    """The public key of a private one."""
    return cryptography().PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def check_public_key(public: bytes, *, who: str) -> None:
    """Raise `SecureAggregationError` for a public key that nobody makes from a private one.

    Three kinds: not reduced modulo 2^255 - 19 (another form of a key that may be known), not on
    the curve (on its twist), and of low order (every agreed key would be the same).

    Args:
        public: 32 bytes.
        who: Whose key it is, for the message.

    """
    u = int.from_bytes(public, "little")
    kind = ""
    if len(public) != KEY_BYTES or u >= _FIELD:
        kind = "one that is not reduced"
    elif pow(u**3 + _CURVE * u**2 + u, (_FIELD - 1) // 2, _FIELD) not in (0, 1):
        kind = "one off the curve"
    else:
        try:  # any private key is a multiple of the cofactor 8
            _exchange(bytes(KEY_BYTES), public)
        except ValueError:
            kind = "one of low order"
    if kind:
        raise SecureAggregationError(f"{who}: expected a key of X25519, got {kind}.")


def agree(private: bytes, public: bytes) -> bytes:
    """The secret that two key pairs have in common. The public key must have been checked."""
    try:
        return _exchange(private, public)
    except ValueError:
        raise SecureAggregationError(
            "agree: expected a key of X25519, got one of low order."
        ) from None


def derive(secret: bytes, purpose: str, round_: bytes, first: int, second: int) -> bytes:
    """Derive a key of 16 bytes for one purpose, round and pair of clients, by HKDF-SHA256.

    Args:
        secret: The secret.
        purpose: What the key is for.
        round_: The round's number, 16 bytes.
        first: A client.
        second: Another client, or the same.

    Returns:
        16 bytes.

    """
    c = cryptography()
    info = context(purpose, round_, first, second)
    return c.HKDF(c.SHA256(), _STREAM_KEY_BYTES, None, info).derive(secret)


def context(purpose: str, round_: bytes, first: int, second: int) -> bytes:
    """Bytes that tell a purpose, a round and two clients apart from all others."""
    text = f"fedjax-llm secure aggregation 1 {purpose}\n".encode()
    return text + round_ + first.to_bytes(4, "big") + second.to_bytes(4, "big")


def commit(secret: bytes, round_: bytes, client: int) -> bytes:
    """SHA-256 that binds a client to a secret of 32 random bytes without telling it."""
    return hashlib.sha256(context("commitment", round_, client, client) + secret).digest()


def seal(key: bytes, data: bytes, about: bytes) -> bytes:
    """Encrypt and authenticate by AES-128-GCM. A key seals one text only: the nonce is zero."""
    return cryptography().AESGCM(key).encrypt(bytes(12), data, about)


def unseal(key: bytes, data: bytes, about: bytes, *, who: str) -> bytes:
    """Decrypt what `seal` made with the same key and `about`, or raise and name who sent it."""
    c = cryptography()
    try:
        return c.AESGCM(key).decrypt(bytes(12), data, about)
    except c.InvalidTag:
        raise SecureAggregationError(
            f"{who}: expected shares sealed for this client and round, got others; they were "
            "changed, replayed or meant for another."
        ) from None


def add_stream(total: np.ndarray, key: bytes, *, subtract: bool = False) -> None:
    """Add the stream of a key to integers in place, modulo 2^16 or 2^32.

    The stream is that of AES-128 in counter mode from zero, as little-endian integers. A key makes
    one stream only.

    Args:
        total: Vector of unsigned integers, contiguous.
        key: 16 bytes.
        subtract: Subtract it. Default: False.

    """
    c = cryptography()
    encryptor = c.Cipher(c.AES(key), c.CTR(bytes(16))).encryptor()
    plain = bytes(_CHUNK)
    buffer = bytearray(_CHUNK + 15)
    step = _CHUNK // total.itemsize
    operation = np.subtract if subtract else np.add
    for start in range(0, total.size, step):
        part = total[start : start + step]
        encryptor.update_into(memoryview(plain)[: part.nbytes], buffer)
        stream = np.frombuffer(buffer, total.dtype.newbyteorder("<"), part.size)
        operation(part, stream, out=part)


def _exchange(private: bytes, public: bytes) -> bytes:
    c = cryptography()
    key = c.PrivateKey.from_private_bytes(private)
    return key.exchange(c.PublicKey.from_public_bytes(public))
