"""Secure aggregation: the server learns the sum of clients' integers, and none of them."""

from fedjax_compression.ops.bits import sum_width

from .client import Client
from .degrees import Degree, choose_degree
from .errors import SecureAggregationError
from .rounds import RoundResult, run_round
from .server import Server, Sum
from .setup import Setup, check_setup
from .shamir import combine, split
from .updates import Mean, codec_setup, integers_of, mean_of

__all__ = [
    "Client",
    "Degree",
    "Mean",
    "RoundResult",
    "SecureAggregationError",
    "Server",
    "Setup",
    "Sum",
    "check_setup",
    "choose_degree",
    "codec_setup",
    "combine",
    "integers_of",
    "mean_of",
    "run_round",
    "split",
    "sum_width",
]
