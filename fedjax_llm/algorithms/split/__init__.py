"""Methods in which clients run the lower half of a model and the server the upper half."""

from .split_lora import split_lora

__all__ = ["split_lora"]
