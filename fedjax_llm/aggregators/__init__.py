"""Rules by which a server combines decoded updates."""

from .adaptive_dp_fed_avg import adaptive_dp_fed_avg
from .banded_dp_fed_avg import banded_dp_fed_avg
from .bucketing import bucketing
from .bulyan import bulyan
from .centered_clipping import centered_clipping
from .contract import Aggregator, AtClients, Noised, Summing
from .distributed_dp import distributed_dp
from .dnc import dnc
from .dp_fed_avg import dp_fed_avg
from .failures import leave_out_failed
from .fl_trust_rule import fl_trust_rule
from .flame import flame
from .fools_gold import fools_gold
from .krum import krum, multi_krum
from .local_dp import local_dp
from .mean import mean
from .median import median
from .nearest_neighbor_mixing import nearest_neighbor_mixing
from .norm_bound import norm_bound
from .rfa import rfa
from .secure_mean import secure_mean
from .sign_majority import sign_majority
from .stacked import Stack, shares, stacked
from .trimmed_mean import trimmed_mean
from .weighted_mean import weighted_mean

__all__ = [
    "Aggregator",
    "AtClients",
    "Noised",
    "Stack",
    "Summing",
    "adaptive_dp_fed_avg",
    "banded_dp_fed_avg",
    "bucketing",
    "bulyan",
    "centered_clipping",
    "distributed_dp",
    "dnc",
    "dp_fed_avg",
    "fl_trust_rule",
    "flame",
    "fools_gold",
    "krum",
    "leave_out_failed",
    "local_dp",
    "mean",
    "median",
    "multi_krum",
    "nearest_neighbor_mixing",
    "norm_bound",
    "rfa",
    "secure_mean",
    "shares",
    "sign_majority",
    "stacked",
    "trimmed_mean",
    "weighted_mean",
]
