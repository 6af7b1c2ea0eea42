"""Runs the algorithms of this library over Flower: real processes, real messages."""

from .installed import flwr as _flwr  # noqa: F401 - refuses where Flower is missing, before others

# isort: split
from .client import client_app
from .compression_mod import DecodedRound, compression_mod, decoding
from .envelope import ReplyError
from .federate import FlowerRound, Standing, federate
from .secure_sums import SecureSums
from .server_app import round_row, server_app

__all__ = [
    "DecodedRound",
    "FlowerRound",
    "ReplyError",
    "SecureSums",
    "Standing",
    "client_app",
    "compression_mod",
    "decoding",
    "federate",
    "round_row",
    "server_app",
]
