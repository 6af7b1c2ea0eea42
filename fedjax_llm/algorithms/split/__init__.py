"""Methods in which clients hold the lower part of a model and the server the upper."""

from .split_lora import split_lora

__all__ = ["split_lora"]
