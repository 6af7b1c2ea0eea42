"""The app of a node."""

from pathlib import Path

from fedjax_llm.flower import client_app
from tests.helpers.flower_task import BATCHING, PARAMS, corpus

from .federation import algorithm

app = client_app(algorithm(), PARAMS, (), corpus(), BATCHING, folder=Path("clients"))
