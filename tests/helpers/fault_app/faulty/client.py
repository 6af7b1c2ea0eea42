"""The app of a node: honest, but for the rounds that its configuration names.

`--node-config 'client="bob" faults="2:garbage 3:replayed"'`: what it does in which round.
"""

import functools
from pathlib import Path

from flwr.app import Message
from flwr.clientapp import ClientApp

from fedjax_llm.flower import client_app
from tests.helpers.fault_rounds import METHODS
from tests.helpers.flower_task import BATCHING, PARAMS, corpus

from .faults import FAULTS

app = ClientApp()
last = {}
"""The honest reply of the last round."""


@functools.cache
def honest(method):
    return client_app(METHODS[method](), PARAMS, (), corpus(), BATCHING, folder=Path("clients"))


@app.query("join")
def join(asked, context):
    return honest(context.run_config["method"])(asked, context)


@app.train()
def train(asked, context):
    reply = honest(context.run_config["method"])(asked, context)
    number = asked.content.config_records["round"]["round"]
    ordered = dict(each.split(":") for each in context.node_config.get("faults", "").split())
    content = reply.content
    if fault := ordered.get(str(number)):
        content = FAULTS[fault](content, last.get("content"))
    last["content"] = reply.content
    return Message(content, reply_to=asked)
