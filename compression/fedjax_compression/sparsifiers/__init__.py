"""Sparsifiers: codecs that send a subset of the entries."""

from .chunked_top_k import chunked_top_k
from .dct_top_k import dct_top_k
from .dgc import dgc
from .random_k import random_k
from .sparse_loco import sparse_loco
from .sparse_ternary import sparse_ternary
from .threshold import threshold
from .top_k import top_k

__all__ = [
    "chunked_top_k",
    "dct_top_k",
    "dgc",
    "random_k",
    "sparse_loco",
    "sparse_ternary",
    "threshold",
    "top_k",
]
