"""A worker and the message of its task, which a SuperNode may have late or never."""

import hashlib
import socket
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pytest
import uvicorn
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable import inflatable_object
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from fedjax_llm.flower import worker
from fedjax_llm.flower.worker import Worker

NODE, SECONDS = 7, 30
APP = hashlib.sha256(b"").hexdigest()


class SuperNode:
    """The state of a SuperNode and the HTTP server that its worker asks, both Flower's own."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"
        self.states = NodeStateFactory(ObjectStoreFactory())
        self.state = self.states.state()
        self.state.set_node_id(NODE)

    def make_task(self, run):
        """As a SuperNode does before it stores the message."""
        about = Run.create_empty(run)
        about.fab_hash, about.series_id = APP, run
        self.state.store_run(about)
        self.state.store_fab(Fab(APP, b"", {}))
        context = Context(run, NODE, {}, RecordDict(), {}, series_id=run)
        self.state.set_run_series_context(run, context)
        return self.state.create_task(TaskType.CLIENT_APP, run, fab_hash=APP)

    def store(self, run, *, parts=True):
        """Store a message of a run, with or without its parts."""
        arrays = ArrayRecord({"a": Array(np.arange(3.0))})
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, SUPERLINK_NODE_ID, 1
        message = Message(RecordDict({"arrays": arrays}), NODE, "train")
        message.metadata.__dict__["_message_id"] = message.object_id
        self.state.object_store.preregister(run, inflatable_object.get_object_tree(message))
        self.state.store_message(message)
        if parts:
            for name, each in inflatable_object.get_all_nested_objects(message).items():
                self.state.object_store.put(name, each.deflate())

    def reply(self):
        """The reply, as the SuperNode waits for it."""
        until = time.monotonic() + SECONDS
        while not (found := self.state.get_messages_legacy(is_reply=True)):
            assert time.monotonic() < until, "no reply"
            time.sleep(0.05)
        (one,) = found
        return one


@contextmanager
def served():
    """A SuperNode, and its worker with an app that sends a message back."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        node = SuperNode(free.getsockname()[1])
    port = int(node.address.split(":")[1])
    app = create_app(state_factory=node.states)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()

    def work():
        with suppress(httpx.TransportError):  # at the end, when the SuperNode is gone
            mine.serve()

    mine = Worker(node.address)
    mine._loaded = APP, lambda message, _: Message(message.content, reply_to=message)
    threading.Thread(target=work, daemon=True).start()
    try:
        yield node
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("first", ["nothing", "no parts"])
def test_a_message_that_never_comes_does_not_hold_up_the_next(first):
    """A run that is stopped while a SuperNode pulls its message leaves a task without it."""
    with served() as node:
        given_up = node.make_task(run=1)
        if first == "no parts":
            node.store(run=1, parts=False)
        time.sleep(1)  # the worker has taken the task
        node.make_task(run=2)
        node.store(run=2)
        assert node.reply().metadata.run_id == 2
        (task,) = node.state.get_tasks(task_ids=[given_up])  # no lease of it ends later
        assert (task.status.status, task.status.sub_status) == ("finished", "failed")


def test_a_message_whose_answer_was_lost_does_not_keep_its_lease(monkeypatch):
    """Its lease ends, so that the SuperNode answers with an error."""
    monkeypatch.setattr(worker, "MESSAGE_SECONDS", 1.0)
    for module in (in_memory_corestate, heartbeat):  # a lease of 6 seconds in place of 60
        monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 3)
    monkeypatch.setattr(heartbeat, "HEARTBEAT_CALL_TIMEOUT", 1)
    with served() as node:
        node.store(run=1)
        assert len(node.state.get_messages_legacy(run_ids=[1], is_reply=False)) == 1
        node.make_task(run=1)
        assert node.reply().has_error()


def test_a_message_that_comes_after_its_task_is_served():
    with served() as node:
        node.make_task(run=1)
        time.sleep(1)
        node.store(run=1)
        assert node.reply().metadata.run_id == 1
