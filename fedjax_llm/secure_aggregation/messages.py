"""The messages of a secure sum, through `fedjax_compression.wire`.

Every message is a header of 12 bytes (with a checksum, and a fingerprint that tells the kinds of
messages apart), the round's number, the number of the client that sends or receives it, and arrays.
Where a message has a row for each neighbour, their number follows from its length, and no other
length is accepted.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
from fedjax_compression import wire
from jaxtyping import Bool, UInt8, UInt32

from .errors import SecureAggregationError
from .primitives import KEY_BYTES, TAG_BYTES
from .setup import ROUND_BYTES, Setup
from .shamir import SHARE_BYTES

SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
"""Bytes of two sealed shares: of the seed of a client's own mask, and of its masking key."""
_COMMITMENT_BYTES = 32


class Advertised(NamedTuple):
    """From a client: its public keys of the round.

    Attributes:
        round: Number of the round.
        client: Number of the client.
        sealing: Public key under which others seal shares for it.
        masking: Public key from which common masks are made.

    """

    round: UInt8[np.ndarray, " 16"]
    client: UInt32[np.ndarray, ""]
    sealing: UInt8[np.ndarray, " 32"]
    masking: UInt8[np.ndarray, " 32"]


class Neighbors(NamedTuple):
    """To a client: its neighbours, in increasing order, and their public keys.

    Attributes:
        round: Number of the round.
        client: Number of the client.
        neighbors: Numbers of the neighbours.
        sealings: Their public keys for sealing.
        maskings: Their public keys for masking.

    """

    round: UInt8[np.ndarray, " 16"]
    client: UInt32[np.ndarray, ""]
    neighbors: UInt32[np.ndarray, " neighbors"]
    sealings: UInt8[np.ndarray, "neighbors 32"]
    maskings: UInt8[np.ndarray, "neighbors 32"]


class Shared(NamedTuple):
    """From a client: shares of its secrets, sealed for each neighbour, in increasing order.

    Attributes:
        round: Number of the round.
        client: Number of the client.
        commitment: Hash of the seed of its own mask.
        receivers: Numbers of the neighbours.
        sealed: What is sealed for them.

    """

    round: UInt8[np.ndarray, " 16"]
    client: UInt32[np.ndarray, ""]
    commitment: UInt8[np.ndarray, " 32"]
    receivers: UInt32[np.ndarray, " neighbors"]
    sealed: UInt8[np.ndarray, "neighbors 82"]


class Delivered(NamedTuple):
    """To a client: what neighbours sealed for it, in increasing order.

    Attributes:
        round: Number of the round.
        client: Number of the client.
        senders: Numbers of the neighbours that shared.
        sealed: What they sealed.

    """

    round: UInt8[np.ndarray, " 16"]
    client: UInt32[np.ndarray, ""]
    senders: UInt32[np.ndarray, " neighbors"]
    sealed: UInt8[np.ndarray, "neighbors 82"]


class Masked(NamedTuple):
    """From a client: its integers with all masks, packed into the modulus's bits each.

    Attributes:
        round: Number of the round.
        client: Number of the client.
        packed: The integers.

    """

    round: UInt8[np.ndarray, " 16"]
    client: UInt32[np.ndarray, ""]
    packed: UInt8[np.ndarray, " bytes"]


class Survivors(NamedTuple):
    """To a client: which of the neighbours that shared have sent their masked integers.

    Attributes:
        round: Number of the round.
        client: Number of the client.
        neighbors: Numbers of the neighbours that shared, in increasing order.
        survived: Which of them sent their integers.

    """

    round: UInt8[np.ndarray, " 16"]
    client: UInt32[np.ndarray, ""]
    neighbors: UInt32[np.ndarray, " neighbors"]
    survived: Bool[np.ndarray, " neighbors"]


class Revealed(NamedTuple):
    """From a client: one share for each neighbour that shared.

    Attributes:
        round: Number of the round.
        client: Number of the client.
        neighbors: Numbers of the neighbours that shared, in increasing order.
        shares: Of the mask's seed of one that survived, of the masking key of one that did not.

    """

    round: UInt8[np.ndarray, " 16"]
    client: UInt32[np.ndarray, ""]
    neighbors: UInt32[np.ndarray, " neighbors"]
    shares: UInt8[np.ndarray, "neighbors 33"]


_FIELDS: dict[type, dict[str, tuple[int, ...]]] = {
    Advertised: {"sealing": (KEY_BYTES,), "masking": (KEY_BYTES,)},
    Neighbors: {"neighbors": (), "sealings": (KEY_BYTES,), "maskings": (KEY_BYTES,)},
    Shared: {"commitment": (_COMMITMENT_BYTES,), "receivers": (), "sealed": (SEALED_BYTES,)},
    Delivered: {"senders": (), "sealed": (SEALED_BYTES,)},
    Survivors: {"neighbors": (), "survived": ()},
    Revealed: {"neighbors": (), "shares": (SHARE_BYTES,)},
}
"""Shapes of the arrays of each kind, without the axis of neighbours."""
_SENT: dict[str, type] = {
    **{"advertise": Advertised, "share": Shared},
    **{"mask": Masked, "unmask": Revealed},
}
"""What a client sends in each step."""
_ONCE = ("sealing", "masking", "commitment")
_TYPES = dict.fromkeys(("neighbors", "receivers", "senders"), np.uint32) | {"survived": np.bool_}

Kind = TypeVar("Kind", Advertised, Neighbors, Shared, Delivered, Masked, Survivors, Revealed)


def write(kind: type, setup: Setup, client: int, **fields: Any) -> bytes:
    """Write a message.

    Args:
        kind: One of the classes above.
        setup: The parameters of the sum.
        client: Number of the client that sends or receives it.
        **fields: The other fields: arrays, or lists of numbers or of bytes.

    Returns:
        The bytes.

    """
    arrays = {name: _array(name, value) for name, value in fields.items()}
    return wire.dumps(kind(_bytes(setup.round), np.asarray(client, np.uint32), **arrays))


def read(
    kind: type[Kind], data: bytes, setup: Setup, *, who: str, client: int | None = None
) -> Kind:
    """Read a message as hostile bytes.

    Args:
        kind: The class that is expected.
        data: The bytes.
        setup: The parameters of the sum, whose round the message must have.
        who: Who reads it, for the error.
        client: The client that must be named in it. Default: any.

    Returns:
        The message: neighbours are in increasing order, none twice, and at most the degree.

    Raises:
        SecureAggregationError: For any other bytes.

    """
    try:
        found: Kind = wire.loads(data, _like(kind, len(data), setup))
    except wire.WireError as error:
        raise SecureAggregationError(f"{who}: {kind.__name__}: {error}") from None
    if found.round.tobytes() != setup.round:
        raise SecureAggregationError(
            f"{who}: {kind.__name__}: expected a message of round {setup.round.hex()}, got "
            f"one of {found.round.tobytes().hex()}; it is replayed."
        )
    if client is not None and int(found.client) != client:
        raise SecureAggregationError(
            f"{who}: {kind.__name__}: expected a message of client {client}, got one of "
            f"{int(found.client)}."
        )
    for name in ("neighbors", "receivers", "senders"):
        numbers = getattr(found, name, None)
        if numbers is not None and (numbers[1:] <= numbers[:-1]).any():
            raise SecureAggregationError(
                f"{who}: {kind.__name__}: expected each client once, in increasing order, got "
                f"{numbers.tolist()[:8]}; a client that is named twice would tell both its shares."
            )
    return found


def message_bytes(kind: type, setup: Setup, neighbors: int = 0) -> int:
    """Length of a message.

    Args:
        kind: Its class.
        setup: The parameters of the sum.
        neighbors: Rows that it has.

    Returns:
        Bytes.

    """
    return wire.nbytes(_structure(kind, setup, neighbors))


def longest(step: str, setup: Setup) -> int:
    """Length of the longest message that a client may send in a step.

    Args:
        step: The step's name.
        setup: The parameters of the sum.

    Returns:
        Bytes.

    """
    return message_bytes(_SENT[step], setup, setup.degree)


def _like(kind: type, length: int, setup: Setup) -> Any:
    """The structure of a message of that length, or the nearest that has fewer rows."""
    if kind in (Advertised, Masked):
        return _structure(kind, setup, 0)
    fixed = message_bytes(kind, setup)
    each = message_bytes(kind, setup, 1) - fixed
    return _structure(kind, setup, min(max(length - fixed, 0) // each, setup.degree))


def _structure(kind: type, setup: Setup, neighbors: int) -> Any:
    arrays: dict[str, Any]
    if kind is Masked:
        arrays = {"packed": _empty("packed", (setup.masked_bytes,))}
    else:
        arrays = {
            name: _empty(name, shape if name in _ONCE else (neighbors, *shape))
            for name, shape in _FIELDS[kind].items()
        }
    return kind(_empty("round", (ROUND_BYTES,)), np.zeros((), np.uint32), **arrays)


def _empty(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros that take no memory: only their shape and type count."""
    return np.broadcast_to(np.zeros((), _TYPES.get(name, np.uint8)), shape)


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return np.stack([_bytes(each) for each in value])
    return np.asarray(value, _TYPES.get(name, np.uint8))


def _bytes(value: bytes) -> np.ndarray:
    return np.frombuffer(value, np.uint8)
