"""Methods in which each client keeps a personal model, or a personal part of one."""

from .ditto import ditto
from .fed_rep import fed_rep

__all__ = ["ditto", "fed_rep"]
