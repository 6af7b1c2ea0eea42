"""Replies that Flower cannot read or that are too long, over a SuperLink that is not there."""

import json

import httpx
import numpy as np
import pytest
from fedjax_compression import Symbols, wire
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_to_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fedjax_llm.flower import replies
from fedjax_llm.flower.envelope import ReplyError, bytes_record

from ...helpers.fault_app.faulty.faults import described, repeated

LIKE = {"w": np.zeros(3, np.float32)}
MOST = replies.most_bytes(LIKE)


@pytest.fixture
def superlink():
    return SuperLink()


class SuperLink:
    """Answers what a grid asks for with the replies in `content`, by the message they answer."""

    def __init__(self):
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 3
        self.content, self.parts, self.confirmed, self.read = {}, {}, [], 0
        self.grid = HttpGrid(insecure=True, token="any")  # noqa: S106 - of nothing
        self.grid.set_run(Run.create_empty(7))
        self.grid._runtime_client._client = httpx.Client(
            transport=httpx.MockTransport(lambda asked: getattr(self, _name(asked))(asked.content))
        )

    def pull(self):
        return dict(replies.pull(self.grid, list(self.content), MOST, None))

    def pull_messages(self, data):
        ids = runtime_pb2.PullAppMessagesRequest.FromString(data).message_ids
        answer = runtime_pb2.PullAppMessagesResponse()
        for each in ids:
            asked = Message(RecordDict(), 5, "train")
            asked.metadata.__dict__["_message_id"] = each
            reply = Message(self.content[each], reply_to=asked)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            about = make_message(metadata=reply.metadata, content=RecordDict())
            answer.messages_list.append(message_to_proto(about))
            answer.message_object_trees.append(get_object_tree(reply))
            objects = get_all_nested_objects(reply)
            self.parts.update({name: part.deflate() for name, part in objects.items()})
        return _answer(answer)

    def pull_object(self, data):
        name = message_pb2.PullObjectRequest.FromString(data).object_id
        part = self.parts.get(name)
        answer = message_pb2.PullObjectResponse(
            object_found=part is not None, object_available=True, object_content=part or b""
        ).SerializeToString()

        def stream():
            self.read += len(answer)
            yield answer

        length = {"content-length": str(len(answer))}
        return httpx.Response(200, headers=length, stream=_Stream(stream))

    def confirm_message_received(self, data):
        asked = message_pb2.ConfirmMessageReceivedRequest.FromString(data)
        self.confirmed.append(asked.message_object_id)
        return _answer(message_pb2.ConfirmMessageReceivedResponse())


class _Stream(httpx.SyncByteStream):
    def __init__(self, stream):
        self._stream = stream

    def __iter__(self):
        return self._stream()


def _name(asked):
    return asked.url.path.rpartition("/")[2].replace("-", "_")


def _answer(message):
    return httpx.Response(200, content=message.SerializeToString())


def content(data=None):
    payload = bytes_record(wire.dumps(LIKE) if data is None else data, LIKE)
    return RecordDict({"uplink": payload, "round": ConfigRecord({"round": 3})})


def test_each_bad_reply_is_refused_by_itself(superlink):
    array = {"dtype": "uint8", "shape": [1], "stype": "x"}
    superlink.content = {
        "good": content(),
        "huge": content(bytes(2**22)),
        "repeated": repeated(content()),
        "formless": described(content(), b"part", b"\xff\xfe"),
        "without": described(content(), b"part", json.dumps(array).encode()),
        "outside": described(
            content(), b"part", json.dumps({**array, "arraychunk_ids": [9]}).encode()
        ),
        "also good": content(),
    }
    found = superlink.pull()
    assert list(found) == list(superlink.content)
    for name in ("good", "also good"):
        data = found.pop(name).content.array_records["uplink"]["message"].data
        assert data == wire.dumps(LIKE)
    for name in ("huge", "repeated"):
        assert f"expected at most {MOST} bytes, got " in str(found.pop(name))
    for error in found.values():
        assert isinstance(error, ReplyError)
        assert "reply: expected a message of Flower, got another: " in str(error)
    assert len(superlink.confirmed) == 7


def test_a_part_that_is_too_long_is_not_read(superlink):
    superlink.content = {"huge": content(bytes(2**22))}
    assert isinstance(superlink.pull()["huge"], ReplyError)
    assert superlink.read < 2**13
    hooks = superlink.grid._runtime_client._client.event_hooks
    assert hooks == {"request": [], "response": []}


def test_many_short_parts_are_too_long_together(superlink):
    names = [f"array {i}" for i in range(100)]
    arrays = {name: Array("uint8", (1,), "x", bytes([i]) * 2**10) for i, name in enumerate(names)}
    superlink.content = {"many": RecordDict({"uplink": ArrayRecord(arrays)})}
    assert f"expected at most {MOST} bytes, got " in str(superlink.pull()["many"])
    assert superlink.read < MOST + 2**13


def test_a_part_that_is_missing_fails_its_reply(superlink):
    class Missing(dict):
        def get(self, name):
            return None

    superlink.content, superlink.parts = {"one": content()}, Missing()
    assert "reply: expected all of its parts, got not all" in str(superlink.pull()["one"])


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
@pytest.mark.parametrize("run", [1, 3, 3000])
def test_no_honest_message_is_too_long(dtype, run):
    """Of values that no coder can shorten, and tables that do not pay."""
    bounds = np.iinfo(dtype)
    codes = np.random.default_rng(5).integers(bounds.min, bounds.max, 3000, dtype)
    payload = Symbols(codes, np.full(len(codes) // run, run, np.int32))
    assert len(wire.dumps(payload)) < replies.most_bytes(payload) - replies.MOST_AROUND - 2**20
    assert replies.most_bytes(LIKE) == len(wire.dumps(LIKE)) + replies.MOST_AROUND
