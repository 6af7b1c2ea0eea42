"""Flower's messages on a connection that stays open, which carries instructions and results.

An instruction is a `FitIns` whose one tensor is the serialised content of a message, and whose
configuration has the message's type and group. A result is a `FitRes` of the same form, or one
whose status says what the app raised.
"""

from typing import NamedTuple

from flwr.app import Error, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Parameters, Status
from flwr.common.constant import ErrorCode
from flwr.common.serde import (
    fit_ins_to_proto,
    fit_res_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.recorddict_pb2 import RecordDict as Records
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from .envelope import ReplyError

TENSOR_TYPE = "fedjax-llm.records.v1"


class Failure(NamedTuple):
    """Why there is no result.

    Attributes:
        code: Flower's number of the error.
        reason: The reason, one line.

    """

    code: int
    reason: str


def instruction(message: Message) -> FitIns:
    """Put a message to a client into an instruction.

    Args:
        message: The message.

    """
    about = message.metadata
    config = {"type": about.message_type, "group": about.group_id}
    return FitIns(_parameters(message.content), config)


def asked(ins: FitIns, node: int) -> Message:
    """The message that an instruction holds.

    Args:
        ins: The instruction.
        node: The client's own number.

    Raises:
        ValueError: For an instruction of another form.

    """
    kind, group = ins.config.get("type"), ins.config.get("group")
    if not isinstance(kind, str) or not isinstance(group, str):
        raise ValueError(f"instruction: expected a type and a group, got {ins.config!r}.")
    return Message(_records(ins.parameters), node, kind, group_id=group)


def result(reply: Message | Failure) -> FitRes:
    """Put a client's reply into a result.

    Args:
        reply: The reply, or what the app raised.

    """
    if isinstance(reply, Failure):
        return FitRes(Status(Code.FIT_NOT_IMPLEMENTED, reply.reason), _parameters(None), 0, {})
    return FitRes(Status(Code.OK, ""), _parameters(reply.content), 0, {})


def reply(res: FitRes | Failure, message: Message, most: int) -> Message | ReplyError:
    """The reply that a result holds. It comes from a client, so nothing about it is relied upon.

    Args:
        res: The result.
        message: The message that is answered.
        most: Most bytes of a result.

    Returns:
        The reply, with content or with the error that the client told; or why it was refused.

    """
    if isinstance(res, Failure):
        return Message(Error(*res), reply_to=message)
    if res.status.code != Code.OK:
        reason = res.status.message
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
    if (size := sum(map(len, res.parameters.tensors))) > most:
        return ReplyError(
            f"reply: expected at most {most} bytes, got {size}; server and client need the same "
            "codec, model and version."
        )
    try:
        return Message(_records(res.parameters), reply_to=message)
    except Exception as error:  # whatever Flower raises for what is not of its form
        shown = repr(error)[:200]
        return ReplyError(f"reply: expected a message of Flower, got another: {shown}.")


def serialised_bytes(message: Message) -> int:
    """Bytes of the instruction or of the result that holds a message, with Flower's own around it.

    Args:
        message: A message to a client, or its reply with content.

    """
    if message.metadata.reply_to_message_id:
        return ClientMessage(fit_res=fit_res_to_proto(result(message))).ByteSize()
    return ServerMessage(fit_ins=fit_ins_to_proto(instruction(message))).ByteSize()


def _parameters(content: RecordDict | None) -> Parameters:
    tensors = [] if content is None else [recorddict_to_proto(content).SerializeToString()]
    return Parameters(tensors, TENSOR_TYPE)


def _records(parameters: Parameters) -> RecordDict:
    if parameters.tensor_type != TENSOR_TYPE or len(parameters.tensors) != 1:
        got = f"{len(parameters.tensors)} of type {parameters.tensor_type!r}"
        raise ValueError(f"parameters: expected one tensor of type {TENSOR_TYPE!r}, got {got}")
    return recorddict_from_proto(Records.FromString(parameters.tensors[0]))
