"""What malicious clients do."""

from .alie import alie
from .attackable import attackable
from .contract import Attack
from .ipm import ipm
from .mimic import mimic
from .min_max import min_max, min_sum
from .own_update import free_rider, gaussian, scaling, sign_flip
from .token_flip import token_flip

__all__ = [
    "Attack",
    "alie",
    "attackable",
    "free_rider",
    "gaussian",
    "ipm",
    "mimic",
    "min_max",
    "min_sum",
    "scaling",
    "sign_flip",
    "token_flip",
]
