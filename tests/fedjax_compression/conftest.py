import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """Strict promotion raises where a codec would widen an update's dtype by accident."""
    with jax.numpy_dtype_promotion("strict"):
        yield
