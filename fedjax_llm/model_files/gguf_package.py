"""The optional package gguf, which has GGUF's tensor types and their dequantisation."""

from types import ModuleType


def import_gguf() -> ModuleType:
    """Import gguf; a `ModuleNotFoundError` says how to install it."""
    try:
        import gguf  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "open_gguf: expected the package gguf, got none; pip install 'fedjax-llm[gguf]'.",
            name="gguf",
        ) from error
    return gguf
