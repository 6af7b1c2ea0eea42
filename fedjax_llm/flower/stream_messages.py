"""Flower's messages on a connection that stays open, which carries instructions and results.

An instruction is a `FitIns` whose one tensor is the serialised content of a message, and whose
configuration has the message's type and group. A result is a `FitRes` of the same form, or one
whose status says what the app raised.
"""

from flwr.app import Error, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Parameters, Status
from flwr.common.constant import ErrorCode
from flwr.common.serde import (
    fit_ins_from_proto,
    fit_ins_to_proto,
    fit_res_from_proto,
    fit_res_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.recorddict_pb2 import RecordDict as Records
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage

from .envelope import ReplyError

TENSOR_TYPE = "fedjax-llm.records.v1"


def instruction(message: Message) -> ServerMessage:
    """Put a message to a client into an instruction.

    Args:
        message: The message.

    """
    about = message.metadata
    config = {"type": about.message_type, "group": about.group_id}
    return ServerMessage(fit_ins=fit_ins_to_proto(FitIns(_parameters(message.content), config)))


def asked(sent: ServerMessage, node: int) -> Message:
    """The message that an instruction holds.

    Args:
        sent: The instruction.
        node: The client's own number.

    Raises:
        ValueError: For an instruction of another form.

    """
    if sent.WhichOneof("msg") != "fit_ins":
        raise ValueError(f"instruction: expected one to fit, got {sent.WhichOneof('msg')}.")
    ins = fit_ins_from_proto(sent.fit_ins)
    kind, group = ins.config.get("type"), ins.config.get("group")
    if not isinstance(kind, str) or not isinstance(group, str):
        raise ValueError(f"instruction: expected a type and a group, got {ins.config!r}.")
    return Message(_records(ins.parameters), node, kind, group_id=group)


def result(reply: Message | str) -> ClientMessage:
    """Put a client's reply into a result.

    Args:
        reply: The reply, or what the app raised.

    """
    if isinstance(reply, str):
        res = FitRes(Status(Code.FIT_NOT_IMPLEMENTED, reply), _parameters(None), 0, {})
    else:
        res = FitRes(Status(Code.OK, ""), _parameters(reply.content), 0, {})
    return ClientMessage(fit_res=fit_res_to_proto(res))


def reply(sent: ClientMessage, message: Message, most: int) -> Message | ReplyError:
    """The reply that a result holds. It comes from a client, so nothing about it is relied upon.

    Args:
        sent: The result.
        message: The message that is answered.
        most: Most bytes of a result.

    Returns:
        The reply, with content or with the error that the client told; or why it was refused.

    """
    if (size := sent.ByteSize()) > most:
        return ReplyError(
            f"reply: expected at most {most} bytes, got {size}; server and client need the same "
            "codec, model and version."
        )
    try:
        res = fit_res_from_proto(sent.fit_res)
        if res.status.code != Code.OK:
            reason = res.status.message
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        return Message(_records(res.parameters), reply_to=message)
    except Exception as error:  # whatever Flower raises for what is not of its form
        shown = repr(error)[:200]
        return ReplyError(f"reply: expected a message of Flower, got another: {shown}.")


def serialised_bytes(message: Message) -> int:
    """Bytes of the instruction or of the result that holds a message.

    Args:
        message: A message to a client, or its reply with content.

    """
    is_reply = message.metadata.reply_to_message_id
    return (result(message) if is_reply else instruction(message)).ByteSize()


def _parameters(content: RecordDict | None) -> Parameters:
    tensors = [] if content is None else [recorddict_to_proto(content).SerializeToString()]
    return Parameters(tensors, TENSOR_TYPE)


def _records(parameters: Parameters) -> RecordDict:
    if parameters.tensor_type != TENSOR_TYPE or len(parameters.tensors) != 1:
        got = f"{len(parameters.tensors)} of type {parameters.tensor_type!r}"
        raise ValueError(f"parameters: expected one tensor of type {TENSOR_TYPE!r}, got {got}")
    return recorddict_from_proto(Records.FromString(parameters.tensors[0]))
