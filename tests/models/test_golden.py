"""Logits of every family against those of transformers, kept by `make golden`."""

from pathlib import Path

import jax
import numpy as np
import pytest

from fedjax_llm.models import config_from, from_params

from .families import FAMILIES, params, tokens

GOLDEN = np.load(Path(__file__).parent / "golden.npz")


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name):
    config = config_from(FAMILIES[name])
    forward = jax.jit(lambda params, tokens: from_params(config, params)(tokens))
    logits = forward(params(config), tokens((2, 12)))
    scale = np.abs(GOLDEN[name]).max()
    assert np.abs(logits - GOLDEN[name]).max() < 1e-5 * scale


def test_every_family_has_its_golden_values():
    assert set(GOLDEN.files) == set(FAMILIES)
