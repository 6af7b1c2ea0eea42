"""Differential privacy: clipping, noise, the secret that both come from, and accounting."""

from .accounting import Account, calibrate_noise_multiplier
from .clipping import clip_rows
from .dp_sgd import PrivateLoss, dp_sgd, releases_of_row
from .mechanism import Mechanism, Skellam
from .noise import add_noise
from .participation import Participation, Poisson, Separated, WithoutReplacement
from .secret import Secret, read_secret
from .skellam import SkellamAccount

__all__ = [
    "Account",
    "Mechanism",
    "Participation",
    "Poisson",
    "PrivateLoss",
    "Secret",
    "Separated",
    "Skellam",
    "SkellamAccount",
    "WithoutReplacement",
    "add_noise",
    "calibrate_noise_multiplier",
    "clip_rows",
    "dp_sgd",
    "read_secret",
    "releases_of_row",
]
