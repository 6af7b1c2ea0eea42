"""Methods that send predictions instead of parameters."""

from .fed_md import fed_md

__all__ = ["fed_md"]
