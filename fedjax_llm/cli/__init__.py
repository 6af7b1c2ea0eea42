"""The `fedjax-llm` command."""

from .main import main

__all__ = ["main"]
