"""The ledger: the bytes of every message, by round, client and direction.

Lengths are those of messages that `wire.dumps` has made, never of a formula.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from fedjax_compression.checks import check_choice, check_kind
from fedjax_compression.errors import message
from jaxtyping import Int, PyTree

from .algorithm import FederatedAlgorithm


class Entry(NamedTuple):
    """One message.

    Attributes:
        round: The round in which it was sent.
        client: The client that sent or received it, by its position in the corpus.
        direction: `"up"` for a message to the server, `"down"` for one to the client.
        payload_bytes: Bytes of the message without its header.
        header_bytes: Bytes of the header.

    """

    round: int
    client: int
    direction: Literal["up", "down"]
    payload_bytes: int
    header_bytes: int


def entry(number: int, client: int, direction: Literal["up", "down"], length: int) -> Entry:
    """Make the entry of a message from its whole length.

    Args:
        number: The number of the round.
        client: The number of the client.
        direction: `"up"` or `"down"`.
        length: Bytes of the message with its header, `len(wire.dumps(payload))`.

    Returns:
        The entry.

    Example:
        >>> from fedjax_llm.ledger import entry
        >>> entry(1, 7, "up", 100)
        Entry(round=1, client=7, direction='up', payload_bytes=88, header_bytes=12)

    """
    return Entry(number, client, direction, length - wire.HEADER_BYTES, wire.HEADER_BYTES)


def lengths(uplinks: PyTree) -> Int[np.ndarray, " clients"]:
    """Make the message of every client with `wire.dumps` and measure its length.

    Args:
        uplinks: Payloads of the clients: leaves `[clients, ...]`.

    Returns:
        Bytes of each message with its header, `[clients]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.ledger import lengths
        >>> lengths({"w": jnp.zeros((3, 10), jnp.float32)})  # three clients, 12 + 4 * 10 bytes each
        array([52, 52, 52])

    """
    uplinks = jax.device_get(uplinks)
    rows = len(jax.tree.leaves(uplinks)[0])
    return np.array(
        [
            len(wire.dumps(jax.tree.map(lambda leaf, row=row: leaf[row], uplinks)))
            for row in range(rows)
        ],
        np.int64,
    )


def entries(
    number: int, clients: Sequence[int], down: int, ups: Int[np.ndarray, " clients"]
) -> list[Entry]:
    """List the messages of a round: one downlink and at most one uplink for each client.

    A broadcast to K clients counts as K messages.

    Args:
        number: The number of the round.
        clients: The numbers of the clients.
        down: Bytes of the downlink with its header.
        ups: Bytes of each client's uplink with its header, `[clients]`; 0 for a client that sent
            none.

    Returns:
        The entries, client by client, each downlink before the uplink.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.ledger import entries
        >>> listed = entries(1, [4, 7], 412, np.array([62, 0]))
        >>> [(e.client, e.direction, e.payload_bytes) for e in listed]
        [(4, 'down', 400), (4, 'up', 50), (7, 'down', 400)]

    """
    rows = []
    for client, up in zip(clients, ups.tolist(), strict=True):
        rows.append(entry(number, client, "down", down))
        if up:
            rows.append(entry(number, client, "up", up))
    return rows


def total_bytes(entries: Iterable[Entry], direction: Literal["up", "down"]) -> int:
    """Sum the bytes of all messages in one direction, headers included.

    Args:
        entries: The messages, such as those of a `Round`.
        direction: `"up"` or `"down"`.

    Returns:
        The bytes.

    Raises:
        TypeError: For a `Round` instead of its messages.
        ValueError: For another direction.

    Example:
        >>> from fedjax_llm.ledger import entry, total_bytes
        >>> total_bytes([entry(1, 4, "up", 62), entry(1, 7, "up", 62)], "up")
        124

    """
    if hasattr(entries, "messages"):
        remedy = "pass its .messages"
        raise TypeError(message("total_bytes", "entries", "ledger entries", entries, remedy))
    check_choice(direction, ("up", "down"), who="total_bytes", name="direction")
    return sum(e.payload_bytes + e.header_bytes for e in entries if e.direction == direction)


def messages(
    algorithm: FederatedAlgorithm, params: PyTree, batches: PyTree, *, frozen: PyTree = ()
) -> tuple[PyTree, PyTree]:
    """Derive the structure of a round's messages without computing or allocating anything.

    `wire.nbytes` of each is the length of that message, unless it contains `Symbols`, whose length
    depends on their values.

    Args:
        algorithm: The algorithm.
        params: Trainable parameters: arrays or `ShapeDtypeStruct`s.
        batches: One client's batches, leaves `[steps, batch, ...]`: arrays or `ShapeDtypeStruct`s.
        frozen: Frozen parameters; none by default.

    Returns:
        The downlink and the uplink of one client, as `ShapeDtypeStruct`s.

    Raises:
        TypeError: For an algorithm of another kind.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from typing import NamedTuple
        >>> from fedjax_compression import codec, wire
        >>> from fedjax_llm import fed_avg, ledger
        >>> class Batch(NamedTuple):
        ...     target: jax.Array
        ...     mask: jax.Array
        >>> def loss(w, frozen, batch):
        ...     return ((w - batch.target) ** 2).mean()
        >>> w = jnp.zeros(1000)
        >>> uplink = codec("stochastic_quantize(bits=8)")
        >>> algorithm = fed_avg(loss, w, client_optimizer=optax.sgd(0.1), uplink=uplink)
        >>> down, up = ledger.messages(algorithm, w, Batch(jnp.zeros((1, 1)), jnp.ones((1, 1))))
        >>> wire.nbytes(down), wire.nbytes(up)
        (4012, 1020)

    """
    check_kind(
        algorithm,
        FederatedAlgorithm,
        who="messages",
        name="algorithm",
        expected="a FederatedAlgorithm",
        remedy="call the factory first" if callable(algorithm) else "",
    )

    def one_client(params: PyTree, frozen: PyTree, batches: PyTree) -> tuple[PyTree, PyTree]:
        key = jr.key(0)
        downlink, _ = algorithm.broadcast(key, algorithm.init(key, params))
        client_state = algorithm.client_init(params)
        return downlink, algorithm.client_update(key, frozen, downlink, client_state, batches)[0]

    return jax.eval_shape(one_client, params, frozen, batches)
