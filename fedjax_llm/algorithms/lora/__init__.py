"""Federated methods that train LoRA factors."""

from .fed_sb import fed_sb
from .fedex_lora import fedex_lora
from .fedsa_lora import fedsa_lora
from .ffa_lora import ffa_lora
from .flasc import flasc
from .flexlora import flexlora
from .flora import flora
from .flora_ranks import flora_ranks
from .hetlora import hetlora
from .rolora import rolora

__all__ = [
    "fed_sb",
    "fedex_lora",
    "fedsa_lora",
    "ffa_lora",
    "flasc",
    "flexlora",
    "flora",
    "flora_ranks",
    "hetlora",
    "rolora",
]
