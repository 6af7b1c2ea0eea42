"""Logits of every family against those of transformers, which `make golden` stored."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.families import FAMILIES, forward, tokens

GOLDEN = np.load(Path(__file__).parent / "golden.npz")


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_those_of_transformers(name):
    logits = forward(name, tokens((2, 12)))
    scale = np.abs(GOLDEN[name]).max()
    assert np.abs(logits - GOLDEN[name]).max() < 1e-5 * scale


def test_every_family_has_golden_values():
    assert set(GOLDEN.files) == {*FAMILIES, "bert"}
