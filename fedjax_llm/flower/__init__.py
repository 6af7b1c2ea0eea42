"""Runs the algorithms of this library over Flower: real processes, real messages."""

from .installed import flwr as _flwr  # noqa: F401 - refuses where Flower is missing, before others

# isort: split
from .client import client_app
from .federate import FlowerRound, Standing, federate
from .server_app import round_row, server_app

__all__ = ["FlowerRound", "Standing", "client_app", "federate", "round_row", "server_app"]
