"""The app of a node, which reads the one text that its configuration names."""

from pathlib import Path

from fedjax_llm.data import byte_corpus
from fedjax_llm.flower import client_app

from .federation import BATCHING, algorithm, task


def own_text(node_config):
    """The text of this node's client."""
    return byte_corpus({node_config["client"]: Path(node_config["text"]).read_text()})


app = client_app(algorithm, task.params, task.frozen, own_text, BATCHING, folder=Path("clients"))
