"""Codecs that wrap other codecs."""

from .chain import chain, identity
from .diana import diana
from .ef21 import ef21
from .error_feedback import error_feedback
from .preconditioned import preconditioned
from .predictive import predictive
from .rotated import rotated
from .scale import least_error_scale, unbiased_scale

__all__ = [
    "chain",
    "diana",
    "ef21",
    "error_feedback",
    "identity",
    "least_error_scale",
    "preconditioned",
    "predictive",
    "rotated",
    "unbiased_scale",
]
