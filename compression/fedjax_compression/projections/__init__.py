"""Codecs that project an update to fewer dimensions."""

from .count_sketch import count_sketch
from .power_sgd import power_sgd
from .random_subspace import random_subspace

__all__ = ["count_sketch", "power_sgd", "random_subspace"]
