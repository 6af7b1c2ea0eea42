"""A Flower grid within one process: each message is answered by its node's app at once."""

import itertools

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class InMemoryGrid(Grid):
    """Nodes by id: `(app, node_config)`. `tamper(reply)` returns the replies that come instead.

    A handler that raises is answered by an error with code 2, as a SuperNode does.
    """

    def __init__(self, nodes, tamper=lambda reply: [reply], run_config=None):
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 3
        self.nodes, self.tamper, self.run_config = nodes, tamper, run_config or {}
        self.sent, self.waiting = [], {}
        self._numbers = itertools.count(1)

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        raise NotImplementedError

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        if message.metadata.dst_node_id not in self.nodes:
            return None
        name = f"message-{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = name
        self.sent.append(message)
        app, config = self.nodes[message.metadata.dst_node_id]
        context = Context(7, message.metadata.dst_node_id, config, RecordDict(), self.run_config)
        try:
            reply = app(message, context)
        except Exception as error:
            reply = Message(Error(2, f"{type(error)}:<{error!r}>"), reply_to=message)
        self.waiting[name] = self.tamper(reply)
        return name

    def pull_messages(self, message_ids):
        return [reply for each in message_ids for reply in self.waiting.pop(each, [])]

    def send_and_receive(self, messages, *, timeout=None):
        ids = self.push_messages(messages)
        return self.pull_messages([each for each in ids if each])
