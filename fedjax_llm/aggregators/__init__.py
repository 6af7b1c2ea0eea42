"""Rules by which a server combines decoded updates."""

from .contract import Aggregator
from .failures import leave_out_failed
from .stacked import Stack, shares, stacked
from .weighted_mean import weighted_mean

__all__ = ["Aggregator", "Stack", "leave_out_failed", "shares", "stacked", "weighted_mean"]
