"""Methods in which each client keeps a model, or a part of one, of its own."""

from .ditto import ditto
from .fed_rep import fed_rep

__all__ = ["ditto", "fed_rep"]
