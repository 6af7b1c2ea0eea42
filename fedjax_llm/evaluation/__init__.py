"""Evaluation: measures by client, accuracies, generated answers, and baselines."""

from .backdoors import backdoor_success
from .baselines import Baseline, Baselines, baselines
from .bounded import bounded
from .by_client import ByClient, Distribution, by_client, by_own_model, distribution
from .generations import Answered, answer, scored
from .options import option_accuracy
from .overlap import exact_match, rouge_l
from .per_byte import per_byte, token_bytes

__all__ = [
    "Answered",
    "Baseline",
    "Baselines",
    "ByClient",
    "Distribution",
    "answer",
    "backdoor_success",
    "baselines",
    "bounded",
    "by_client",
    "by_own_model",
    "distribution",
    "exact_match",
    "option_accuracy",
    "per_byte",
    "rouge_l",
    "scored",
    "token_bytes",
]
