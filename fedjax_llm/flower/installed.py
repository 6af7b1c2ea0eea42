"""Which Flower is installed; refuses to run where none is."""

try:
    import flwr
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "fedjax_llm.flower: flwr: expected Flower 1.40 or newer, got none; install it with "
        "pip install 'fedjax-llm[flower]'."
    ) from error

__all__ = ["KNOWN", "flwr", "is_known"]
KNOWN = ("1.42.",)
"""The versions of Flower whose functions that are not public were tried."""


def is_known() -> bool:
    """Whether the installed Flower is one of `KNOWN`."""
    return flwr.__version__.startswith(KNOWN)
