import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    """A codec must not widen an update's dtype by accident."""
    with jax.numpy_dtype_promotion("strict"):
        yield
