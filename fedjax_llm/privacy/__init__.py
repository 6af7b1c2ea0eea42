"""Differential privacy: clipping, noise, the secret that both come from, and accounting."""

from .accounting import Account, calibrate_noise_multiplier
from .clipping import clip_rows
from .dp_sgd import PrivateLoss, dp_sgd, releases_of_row
from .integer_noise import IntegerAccount
from .mechanism import DiscreteGaussian, Mechanism, Skellam
from .noise import add_noise
from .participation import Participation, Poisson, Separated, WithoutReplacement
from .secret import Secret, read_secret

__all__ = [
    "Account",
    "DiscreteGaussian",
    "IntegerAccount",
    "Mechanism",
    "Participation",
    "Poisson",
    "PrivateLoss",
    "Secret",
    "Separated",
    "Skellam",
    "WithoutReplacement",
    "add_noise",
    "calibrate_noise_multiplier",
    "clip_rows",
    "dp_sgd",
    "read_secret",
    "releases_of_row",
]
