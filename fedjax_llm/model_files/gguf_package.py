"""The optional package gguf: the types of GGUF's tensors, and their dequantisation."""

from types import ModuleType


def import_gguf() -> ModuleType:
    """The module. `ModuleNotFoundError`, which says how to install it, where it is not there."""
    try:
        import gguf  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'Reading GGUF needs the package gguf: pip install "fedjax-llm[gguf]"', name="gguf"
        ) from error
    return gguf
