"""Differential privacy: clipping, noise, the secret that both come from, and accounting."""

from .accounting import Account, calibrate_noise_multiplier
from .clipping import clip_rows
from .mechanism import Mechanism
from .noise import add_noise
from .participation import Participation, Poisson, Separated, WithoutReplacement
from .secret import Secret, read_secret

__all__ = [
    "Account",
    "Mechanism",
    "Participation",
    "Poisson",
    "Secret",
    "Separated",
    "WithoutReplacement",
    "add_noise",
    "calibrate_noise_multiplier",
    "clip_rows",
    "read_secret",
]
