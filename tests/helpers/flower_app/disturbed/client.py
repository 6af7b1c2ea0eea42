"""The app of a node: in the rounds that its configuration names, it does what that says."""

import shutil
from pathlib import Path

import jax.numpy as jnp
from fedjax_compression import wire
from flwr.clientapp import ClientApp

from fedjax_llm.flower import client_app
from fedjax_llm.flower.client_files import client_folder
from fedjax_llm.flower.envelope import bytes_record
from tests.helpers.flower_task import BATCHING, PARAMS, corpus

from .federation import algorithm

FOLDER = Path("clients")
honest = client_app(algorithm(), PARAMS, (), corpus(), BATCHING, folder=FOLDER)
app = ClientApp()


@app.query("join")
def join(asked, context):
    return honest(asked, context)


@app.train()
def train(asked, context):
    number = asked.content["round"]["round"]
    bad = context.node_config.get(f"round-{number}", "")
    if bad == "lost state":
        shutil.rmtree(client_folder(FOLDER, asked.content["round"]["run"], "cyn"))
    if bad == "raise":
        raise MemoryError("no memory left")
    reply = honest(asked, context)
    array = reply.content["uplink"]["message"]
    if bad == "garbage":
        array.data = bytes(range(256)) * (len(array.data) // 256 + 1)
        array.data = array.data[: array.shape[0]]
    if bad == "too much":
        array.data = bytes(2**26)
        array.shape = (2**26,)
    if bad == "last round's":
        reply.content["round"]["round"] = number - 1
    if bad == "another model's":
        other = {"w": jnp.zeros((3, 3))}
        reply.content["uplink"] = bytes_record(wire.dumps(other), other)
    return reply
