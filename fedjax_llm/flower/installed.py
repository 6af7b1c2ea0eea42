"""Refuses to run where Flower is not installed."""

try:
    import flwr
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "fedjax_llm.flower: flwr: expected Flower 1.40 or newer, got none; install it with "
        "pip install 'fedjax-llm[flower]'."
    ) from error

__all__ = ["flwr"]
