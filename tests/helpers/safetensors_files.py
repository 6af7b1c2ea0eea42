"""Tensors for tests of safetensors files."""

import ml_dtypes
import numpy as np


def some(shape=(3, 4), dtype="float32", seed=0):
    """A random tensor of the values -1 and 2."""
    values = np.random.default_rng(seed).integers(0, 2, shape) * 3 - 1
    return np.asarray(values, np.dtype(getattr(ml_dtypes, dtype, dtype)))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether dtype, shape and bytes are equal."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
