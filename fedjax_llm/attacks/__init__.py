"""What malicious clients do."""

from .alie import alie
from .attackable import attackable
from .backdoor import backdoor, distributed_backdoor
from .contract import Attack, Backdoor, Known
from .ipm import ipm
from .mimic import mimic
from .min_max import min_max, min_sum
from .neurotoxin import neurotoxin
from .own_update import free_rider, gaussian, scaling, sign_flip
from .sybils import sybils
from .token_flip import token_flip
from .unsafe_instructions import unsafe_instructions

__all__ = [
    "Attack",
    "Backdoor",
    "Known",
    "alie",
    "attackable",
    "backdoor",
    "distributed_backdoor",
    "free_rider",
    "gaussian",
    "ipm",
    "mimic",
    "min_max",
    "min_sum",
    "neurotoxin",
    "scaling",
    "sign_flip",
    "sybils",
    "token_flip",
    "unsafe_instructions",
]
