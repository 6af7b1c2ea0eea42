"""Without the package cryptography, what needs it says so, and the rest works."""

import sys

import pytest

from fedjax_llm.secure_aggregation import Client, Server, choose_degree
from tests.helpers.secure_rounds import setup_of


def test_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for made in (Server, lambda setup: Client(setup, 0)):
        with pytest.raises(ModuleNotFoundError) as raised:
            made(setup_of(4))
        assert str(raised.value) == (
            "secure_aggregation: expected the package cryptography, which makes keys and masks, "
            "got none; pip install 'fedjax-llm[secure]'."
        )
    assert choose_degree(100, corrupt=0.05, dropout=0.05).degree == 12
