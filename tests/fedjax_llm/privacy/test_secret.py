"""Secrets: keys of their own for each purpose and round, and nothing that gives them away."""

import hashlib
import hmac
import re

import jax
import numpy as np
import pytest

from fedjax_llm.privacy import Secret, read_secret

VALUE = bytes(range(32))


def words(key):
    return tuple(jax.random.key_data(key).tolist())


def test_a_key_is_the_start_of_an_hmac():
    mac = hmac.digest(VALUE, b"noise 7", hashlib.sha256)
    expected = tuple(int.from_bytes(mac[i : i + 4], "big") for i in (0, 4))
    assert words(Secret(VALUE).key("noise", 7)) == expected


def test_purposes_rounds_secrets_and_contexts_have_keys_of_their_own():
    secret = Secret(VALUE)
    keys = [
        words(each.key(purpose, number))
        for each in (secret, secret.bound("a"), secret.bound("b"), Secret(VALUE[::-1]))
        for purpose in ("noise", "sampling")
        for number in range(20)
    ]
    assert len(set(keys)) == len(keys)
    assert words(secret.bound("a").key("noise", 1)) == words(
        Secret(VALUE).bound("a").key("noise", 1)
    )


def test_equal_secrets_have_equal_digests_and_others_do_not():
    assert Secret(VALUE).digest == Secret(VALUE).digest
    assert Secret(VALUE).digest != Secret(VALUE[::-1]).digest
    assert VALUE.hex()[:16] not in Secret(VALUE).digest


def test_a_secret_is_never_shown(tmp_path):
    text = "deadbeef" * 8
    path = tmp_path / "secret"
    path.write_text(text + "\n")
    secret = read_secret(path)
    assert secret.digest == Secret(bytes.fromhex(text)).digest
    assert "dead" not in f"{secret!r}{secret}{[secret]}"
    path.write_text(f"{text} and more")
    with pytest.raises(ValueError, match="32 hexadecimal digits") as raised:
        read_secret(path)
    assert "dead" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


@pytest.mark.parametrize("text", ["", "00" * 15, "zz" * 32, "é" * 64])
def test_a_file_without_a_secret_is_refused_with_the_remedy(tmp_path, text):
    path = tmp_path / "secret"
    path.write_bytes(text.encode())
    with pytest.raises(ValueError, match=re.escape("secrets.token_hex(32)")):
        read_secret(path)


def test_a_missing_file_and_short_or_other_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No such file.*token_hex"):
        read_secret(tmp_path / "none")
    with pytest.raises(ValueError, match="at least 16 random bytes, got 15"):
        Secret(VALUE[:15])
    assert np.shape(Secret(VALUE[:16]).key("noise", 0)) == ()
