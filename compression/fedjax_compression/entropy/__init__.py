"""Codecs whose messages are entropy-coded to a given rate."""

from .adaptive import adaptive
from .entropy_coded import entropy_coded
from .trellis import trellis

__all__ = ["adaptive", "entropy_coded", "trellis"]
