"""What a hostile client sends instead of its update: `(honest content, last round's) -> content`.

Arrays whose own description is false are of classes named as Flower's, whose parts are not what
their data is: a node passes parts on as they are.
"""

import json
import os

import flwr.app
import numpy as np
from fedjax_compression import wire
from flwr.app import ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body

from fedjax_llm.flower.envelope import bytes_record
from tests.helpers.fault_rounds import HUGE, PART, TIMES

OTHER = {"v": np.ones(7, np.float32)}
"""What another model sends."""


def uplink(content):
    return content.array_records["uplink"]["message"]


def with_array(content, array):
    record = ArrayRecord({"message": array})
    record["message"] = array  # itself, where the record has made a copy
    return RecordDict({**content, "uplink": record})


def with_data(content, data):
    """Other bytes, which claim to be what was asked for."""
    array = uplink(content)
    return with_array(content, flwr.app.Array("uint8", (len(data),), array.stype, data))


def another_model(content):
    return RecordDict({**content, "uplink": bytes_record(wire.dumps(OTHER), OTHER)})


def forged(content):
    """Another model's message of the right length, which claims to be what was asked for."""
    entries = len(uplink(content).data) - wire.HEADER_BYTES
    return with_data(content, wire.dumps({"v": np.zeros(entries, np.uint8)}))


class Array(flwr.app.Array):
    """An array whose description is `self.body`."""

    def deflate(self):
        return add_header_to_object_body(self.body, self)


def described(content, data, body):
    array = uplink(content)
    false = Array("uint8", (len(data),), array.stype, data)
    false.body = body
    return with_array(content, false)


def repeated(content):
    """A short part that the array names so often that it claims to be long."""
    about = {"dtype": "uint8", "shape": [PART * TIMES], "stype": uplink(content).stype}
    body = json.dumps({**about, "arraychunk_ids": [0] * TIMES}).encode()
    return described(content, bytes(PART), body)


FAULTS = {
    "garbage": lambda now, last: with_data(now, os.urandom(len(uplink(now).data))),
    "formless": lambda now, last: described(now, b"part", os.urandom(40)),
    "elsewhere": lambda now, last: RecordDict({"other": ArrayRecord([np.zeros(3)])}),
    "another": lambda now, last: another_model(now),
    "forged": lambda now, last: forged(now),
    "replayed": lambda now, last: last,
    "huge": lambda now, last: with_data(now, os.urandom(HUGE)),
    "repeated": lambda now, last: repeated(now),
}
