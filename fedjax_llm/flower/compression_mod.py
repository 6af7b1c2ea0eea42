"""Codecs for any Flower app: a mod for its clients, and a wrapper for its server's strategy."""

import hashlib
from collections.abc import Callable, Iterable
from logging import WARNING
from typing import Any, NamedTuple

import jax.random as jr
from fedjax_compression import Compressor, wire
from fedjax_compression.checks import check_compressor, check_integer, check_kind
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from jaxtyping import Array, Key

from .envelope import ReplyError, bytes_record, read_bytes
from .named_arrays import (
    Named,
    change_structure,
    check_stateless,
    compiled,
    decode_change,
    encode_change,
    in_dtypes_sent,
    read_arrays,
    without_bfloat16,
    write_arrays,
)

Mod = Callable[[Message, Context, Callable[[Message, Context], Message]], Message]
"""The kind of a Flower mod."""


def compression_mod(codec: Compressor, *, seed: int = 0) -> Mod:
    """Make a Flower mod that sends a client's arrays through a codec, whatever trained them.

    `ClientApp(mods=[compression_mod(eden(bits=4))])`, with `decoding(strategy, codec)` at the
    server. In a `train` message the app gets the arrays as they came and answers with arrays of the
    same names, shapes and dtypes, as clients of `FedAvg` do. What travels instead is one message of
    `wire.dumps`: the change of the float32, float16 and bfloat16 arrays, coded, and integers and
    booleans as they are. Other messages pass unchanged. The downlink is as Flower sends it.

    A mod of differential privacy belongs inside, after this one in the list, as it must see arrays.
    NumPy's files lose the name of bfloat16; such arrays reach the app as Flower gives them, and are
    coded as bfloat16.

    Randomness comes from the seed, the node's configuration and the arrays received, so that it
    differs between nodes and rounds and a run repeats. Give each node a configuration of its own,
    such as `partition-id`; a node without any draws from its id, which differs in every run.

    Args:
        codec: A codec without a state, such as `eden(bits=4)`.
        seed: Seed of the clients' randomness; 0 by default.

    Returns:
        The mod. It raises `ReplyError` for arrays that it cannot send, by name: float64 and other
        dtypes, and names, shapes or dtypes that differ from those received.

    Raises:
        TypeError: For something that is no codec.
        ValueError: For a codec that keeps a state.

    Example:
        >>> from fedjax_compression import eden
        >>> from fedjax_llm.flower import compression_mod
        >>> from flwr.clientapp import ClientApp
        >>> app = ClientApp(mods=[compression_mod(eden(bits=4))])

    """
    who = "compression_mod"
    check_compressor(codec, who=who, name="codec")
    check_stateless(codec, who=who)
    check_integer(seed, who=who, name="seed")
    codec = compiled(codec)

    def mod(
        asked: Message, context: Context, call_next: Callable[[Message, Context], Message]
    ) -> Message:
        received = dict(asked.content.array_records)  # an app may change the message
        reply = call_next(asked, context)
        training = asked.metadata.message_type.split(".")[0] == "train"
        if not training or not reply.has_content():
            return reply
        for name, record in list(reply.content.array_records.items()):
            if name not in received:
                raise ReplyError(
                    f"{who}: {name}: expected a record of arrays that came with the message, got "
                    f"{sorted(received)}; answer under the name that was received."
                )
            before = read_arrays(received[name], who=name)
            after = read_arrays(record, who=name)
            key = _key(seed, context, name, received[name])
            data, like = encode_change(codec, key, before, after)
            reply.content[name] = bytes_record(data, like)
        return reply

    return mod


class DecodedRound(NamedTuple):
    """What `decoding` saw of one round.

    Attributes:
        round: The number of the round.
        up_bytes: Bytes of all messages that came, headers included, decoded or not.
        failed: Why a node's reply was left out, by the node's id.

    """

    round: int
    up_bytes: int
    failed: dict[int, str]


def decoding(strategy: Strategy, codec: Compressor) -> "DecodingStrategy":
    """Wrap a Flower strategy so that it gets the arrays that `compression_mod` has coded.

    `decoding(FedAvg(), eden(bits=4)).start(grid, initial_arrays=..., num_rounds=...)`. A reply that
    cannot be decoded (another codec, truncated, changed, not finite) is left out and named in the
    log and in `rounds`; the others are aggregated. A reply with plain arrays is left out as well.

    The strategy gets bfloat16 arrays in float32, as Flower's own cannot add bfloat16. Its aggregate
    goes out in the dtypes that were sent: rounded to bfloat16, and to the nearest integer where it
    has made means of integers or booleans.

    Args:
        strategy: The strategy, such as `FedAvg()`.
        codec: The clients' codec.

    Returns:
        A strategy, with a list `rounds` of a `DecodedRound` for each round of training.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a codec that keeps a state.

    """
    expected = "a Flower strategy such as FedAvg()"
    check_kind(strategy, Strategy, who="decoding", name="strategy", expected=expected)
    check_compressor(codec, who="decoding", name="codec")
    check_stateless(codec, who="decoding")
    return DecodingStrategy(strategy, codec)


class DecodingStrategy(Strategy):
    """The strategy of `decoding`."""

    def __init__(self, strategy: Strategy, codec: Compressor) -> None:
        self._inner, self._codec = strategy, compiled(codec)
        self._sent: dict[int, dict[str, ArrayRecord]] = {}
        self.rounds: list[DecodedRound] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the strategy make the messages, and keep what each node is sent."""
        messages = list(self._inner.configure_train(server_round, arrays, config, grid))
        self._sent = {
            each.metadata.dst_node_id: dict(each.content.array_records) for each in messages
        }
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode the replies, and let the strategy aggregate those that could be."""
        decoded, failed, up_bytes, arrays = [], {}, 0, _Arrays()
        answered: set[int] = set()
        for reply in sorted(replies, key=lambda each: each.metadata.src_node_id):
            node = reply.metadata.src_node_id
            if not reply.has_content():  # an error, which the strategy counts
                decoded.append(reply)
                continue
            try:
                if node not in self._sent:
                    raise ReplyError("reply: expected one from a node that was asked, got another.")
                if node in answered:
                    raise ReplyError("reply: expected one of each node, got another.")
                answered.add(node)
                for name in list(reply.content.array_records):
                    if name not in self._sent[node]:
                        raise ReplyError(f"{name}: expected a record that was sent, got another.")
                    before = arrays.of(self._sent[node][name])
                    like = change_structure(self._codec, before)
                    data = read_bytes(reply.content, name, like)
                    up_bytes += len(data)
                    after = decode_change(self._codec, data, before)
                    reply.content[name] = write_arrays(without_bfloat16(after))
            except (ReplyError, wire.WireError) as error:
                failed[node] = str(error)
                log(
                    WARNING,
                    "decoding: node %s is left out of round %s: %s",
                    node,
                    server_round,
                    error,
                )
                continue
            decoded.append(reply)
        self.rounds.append(DecodedRound(server_round, up_bytes, failed))
        aggregate, metrics = self._inner.aggregate_train(server_round, decoded)
        if aggregate is not None:
            sent = [record for records in self._sent.values() for record in records.values()]
            aggregate = in_dtypes_sent(aggregate, arrays.of(sent[0]))
        return aggregate, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the strategy does."""
        return self._inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """As the strategy does."""
        return self._inner.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """As the strategy does."""
        self._inner.summary()


class _Arrays:
    """Reads each record once, as all nodes are mostly sent the same one."""

    def __init__(self) -> None:
        self._read: dict[int, Named] = {}

    def of(self, record: ArrayRecord) -> Named:
        if id(record) not in self._read:
            self._read[id(record)] = read_arrays(record, who="sent")
        return self._read[id(record)]


def _key(seed: int, context: Context, name: str, record: ArrayRecord) -> Key[Array, ""]:
    """A key of this node, this record and what it was sent."""
    node: Any = sorted(context.node_config.items()) or context.node_id
    state = hashlib.sha256(repr((seed, node, name)).encode())
    for array in record.values():
        state.update(array.data)
    return jr.key(int.from_bytes(state.digest()[:4], "little"))
