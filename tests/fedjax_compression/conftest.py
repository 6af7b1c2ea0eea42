from pathlib import Path

import jax
import pytest

HERE = Path(__file__).parent
SHARED = {HERE / name for name in ("test_contract.py", "test_edges.py", "wire")}
"""What all codecs share."""


def pytest_collection_modifyitems(items):
    """Mark slow tests of single codecs as long."""
    for item in items:
        alone = HERE in item.path.parents and not SHARED & {item.path, *item.path.parents}
        if alone and item.get_closest_marker("slow"):
            item.add_marker("long")


@pytest.fixture(autouse=True)
def strict_promotion():
    """Strict promotion raises where a codec would widen an update's dtype by accident."""
    with jax.numpy_dtype_promotion("strict"):
        yield
