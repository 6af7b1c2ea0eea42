"""Asks nodes through Flower, and no reply can end the round or take more memory than it may.

Flower's own `Grid.pull_messages` reads whatever a node has sent: it allocates what a message
claims, as often as the message claims it, and raises where one is not of Flower's form, by which
the others of the same call are lost. Here each reply is read for itself, and refused by itself.
That takes functions of Flower that are not public, so only versions that they were tried with are
read so (`KNOWN`); with others, and with grids that are not Flower's own, its `pull_messages` is
called.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import jax
from fedjax_compression import wire
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from jaxtyping import PyTree

from .envelope import ReplyError, envelope_bytes
from .installed import is_known
from .own_grid import OwnGrid

MOST_AROUND = 2**16
"""Most bytes of Flower's own objects around a payload, and of an answer without one."""
POLL_SECONDS = 0.4
"""Time between two questions for replies."""
_PULL_OBJECT = "/v1/runtime/pull-object"


def most_bytes(like: PyTree) -> int:
    """Most bytes of a reply with a payload, Flower's objects around it included.

    The length of a message without `Symbols`, `TrellisSymbols` or `Prefix` is known. Others are
    allowed 8 times their arrays and 1 MiB, which is more than a coder can make of any values.

    Args:
        like: The structure of the payload.

    """
    leaves = jax.tree.leaves(like)
    if not any(map(wire.is_symbols, jax.tree.leaves(like, is_leaf=wire.is_symbols))):
        return wire.nbytes(like) + MOST_AROUND
    return 8 * sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + 2**20 + MOST_AROUND


def ask(
    grid: Grid, asked: dict[int, Message], timeout: float | int | None, most: int
) -> dict[int, list[Message | ReplyError]]:
    """Send messages and wait for the replies, which are matched by the message they answer.

    Args:
        grid: Flower's grid.
        asked: The message for each client or node.
        timeout: Seconds to wait; without end for None.
        most: Most bytes of one reply.

    Returns:
        The replies to each message, or why they were refused. There may be none, or more than one.

    """
    replies: dict[int, list[Message | ReplyError]] = {each: [] for each in asked}
    if not asked:
        return replies
    ids = list(grid.push_messages(list(asked.values())))
    waiting = {i: each for i, each in zip(ids, asked, strict=True) if i}
    sender = dict(waiting)
    until = None if timeout is None else time.monotonic() + timeout
    while waiting:
        for answered, reply in pull(grid, list(waiting), most, until):
            if answered in sender:
                replies[sender[answered]].append(reply)
        waiting = {i: each for i, each in waiting.items() if not replies[each]}
        if waiting:
            if until is not None and time.monotonic() >= until:
                break
            _wait(grid)
    return replies


def is_answer(reply: Message | ReplyError) -> bool:
    """Whether a reply has content, in contrast to a refused one and an error.

    Args:
        reply: The reply, or why it was refused.

    """
    return isinstance(reply, Message) and reply.has_content()


def only(replies: list[Message | ReplyError]) -> Message:
    """The one reply to a message, if it has content.

    Args:
        replies: All replies to the message.

    Raises:
        ReplyError: For none or several replies, a refused one, or an error.

    """
    if len(replies) != 1:
        raise ReplyError(f"reply: expected one in time, got {len(replies) or 'none'}.")
    (reply,) = replies
    if isinstance(reply, ReplyError):
        raise reply
    if reply.has_error():
        reason = repr(str(reply.error.reason))
        shown = reason if len(reason) <= 800 else f"{reason[:400]}...{reason[-400:]}"
        raise ReplyError(f"reply: expected an update, got error {reply.error.code}: {shown}.")
    if not reply.has_content():
        raise ReplyError("reply: expected a content, got none.")
    return reply


def pull(
    grid: Grid, ids: Sequence[str], most: int, until: float | None
) -> Iterator[tuple[str, Message | ReplyError]]:
    """Pull the replies that are there.

    Args:
        grid: Flower's grid.
        ids: The messages that were sent.
        most: Most bytes of one reply.
        until: When to stop waiting for the parts of a reply, by `time.monotonic()`; None for as
            long as Flower does.

    Yields:
        The message that was answered, and its reply, or why that was refused. A reply above `most`
        bytes is refused before these are allocated.

    """
    if isinstance(grid, OwnGrid):
        yield from grid.pull_at_most(ids, most)
        return
    if not is_known() or not _is_flowers(grid):
        for whole in grid.pull_messages(ids):
            yield whole.metadata.reply_to_message_id, whole
        return
    from flwr.proto import message_pb2, runtime_pb2  # noqa: PLC0415 - only where known

    flower: Any = grid
    client, node, run = flower._runtime_client, flower.node, flower.run.run_id
    found = client.PullMessages(runtime_pb2.PullAppMessagesRequest(message_ids=ids))
    for about, tree in zip(found.messages_list, found.message_object_trees, strict=True):
        name = about.metadata.message_id
        reply: Message | ReplyError
        try:
            reply = _read(client, node, run, tree, name, most, until)
        except ReplyError as error:
            reply = error
        finally:  # the SuperLink then forgets its parts
            done = message_pb2.ConfirmMessageReceivedRequest(
                node=node, run_id=run, message_object_id=name
            )
            client.ConfirmMessageReceived(done)
        yield about.metadata.reply_to_message_id, reply


def added_bytes(grid: Grid, message: Message, payload: int) -> int:
    """Count what Flower adds to a payload; headers of HTTP and TLS, and polls, are not counted.

    Args:
        grid: Flower's grid.
        message: A message that was sent, or a reply with content.
        payload: Bytes of our message in it.

    """
    if isinstance(grid, OwnGrid):
        return grid.serialised_bytes(message) - payload
    return envelope_bytes(message, payload)


def _wait(grid: Grid) -> None:
    """Wait until a reply may have come."""
    if isinstance(grid, OwnGrid):
        grid.wait(POLL_SECONDS)
    else:
        time.sleep(POLL_SECONDS)


def _is_flowers(grid: Grid) -> bool:
    from flwr.superlink.grid import HttpGrid  # noqa: PLC0415 - only where known

    return isinstance(grid, HttpGrid)


def _read(
    client: Any, node: Any, run: int, tree: Any, name: str, most: int, until: float | None
) -> Message:
    """Pull the parts of one reply and put them together."""
    from flwr.supercore.inflatable import (  # noqa: PLC0415 - only where known
        inflatable_object,
        inflatable_protobuf_utils,
        inflatable_utils,
    )

    pull_one = inflatable_protobuf_utils.make_pull_object_fn_protobuf(client.PullObject, node, run)
    parts = [each.object_id for each in inflatable_object.iterate_object_tree(tree)]
    longest = inflatable_utils.PULL_MAX_TIME if until is None else until - time.monotonic()
    try:
        with _at_most(client._client, most):
            contents = inflatable_utils.pull_objects(
                parts, _counted(pull_one, most), max_time=longest
            )
    except inflatable_utils.ObjectPullError as error:
        raise ReplyError(f"reply: expected all of its parts, got not all: {error}") from None
    try:
        if (size := _inflated_bytes(contents)) > most:
            raise _too_long(most, size)
        reply = inflatable_utils.inflate_object_from_contents(name, contents)
    except ReplyError:
        raise
    except Exception as error:  # whatever Flower raises for what is not of its form
        shown = repr(error)[:200]
        raise ReplyError(f"reply: expected a message of Flower, got another: {shown}.") from None
    if not isinstance(reply, Message) or not (reply.has_error() or _has_records(reply)):
        raise ReplyError("reply: expected a message of Flower, got another.")
    return reply


def _has_records(reply: Message) -> bool:
    return reply.has_content() and isinstance(reply.content, RecordDict)


def _counted(pull_one: Callable[[str], bytes], most: int) -> Callable[[str], bytes]:
    """Pull parts until they are too many bytes."""
    sizes: list[int] = []

    def counted(part: str) -> bytes:
        if sum(sizes) > most:
            raise _too_long(most, sum(sizes))
        content = pull_one(part)
        sizes.append(len(content))
        return content

    return counted


@contextmanager
def _at_most(http: httpx.Client, most: int) -> Iterator[None]:
    """Refuse a part by the length that its answer's head states, before the answer is read."""

    def check(answer: httpx.Response) -> None:
        length = int(answer.headers.get("content-length", 0))
        if answer.request.url.path == _PULL_OBJECT and length > most:
            raise _too_long(most, length)

    hooks = http.event_hooks
    http.event_hooks = {**hooks, "response": [*hooks["response"], check]}
    try:
        yield
    finally:
        http.event_hooks = hooks


def _inflated_bytes(contents: dict[str, bytes]) -> int:
    """Bytes of all arrays once they are put together; a part may occur in them many times."""
    from flwr.supercore.inflatable import inflatable_object as parts  # noqa: PLC0415

    heads = {
        name: parts.get_object_head_values_from_object_content(content)
        for name, content in contents.items()
    }
    total = 0
    for name, (kind, children, length) in heads.items():
        if kind == "Array":
            about = json.loads(contents[name][-length:])
            sizes = [heads[child][2] for child in children]
            total += sum(sizes[index] for index in about["arraychunk_ids"])
    return total


def _too_long(most: int, length: int) -> ReplyError:
    return ReplyError(
        f"reply: expected at most {most} bytes, got {length} or more; server and client need the "
        "same codec, model and version."
    )
