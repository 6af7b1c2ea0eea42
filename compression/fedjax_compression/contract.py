"""The contract of a compressor, and functions that read properties of one."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .errors import message

Update: TypeAlias = PyTree
"""A pytree of floating-point arrays, such as the change of the parameters that a client sends."""


Like: TypeAlias = PyTree
"""Structure, shapes and dtypes of an update or payload: arrays or `jax.ShapeDtypeStruct`s."""


Payload: TypeAlias = PyTree
"""What `encode` returns and `wire.dumps` writes: a pytree of arrays and of the leaves whose
length depends on their values (`Symbols`, `TrellisSymbols`, `Prefix`)."""


State: TypeAlias = PyTree
"""What a sender keeps between two messages, such as a residual; `()` for none."""


Memory: TypeAlias = PyTree
"""What a receiver keeps between two rounds; `()` for none."""


def _no_memory(like: Like) -> Memory:
    return ()


def _mean_unchanged(
    mean: Update, memory: Memory, share: Float[Array, ""] | float
) -> tuple[Update, Memory]:
    return mean, memory


class Summable(NamedTuple):
    """How the messages of a codec add up: they are integers whose sum decodes to the sum.

    A server that sees only the sum of clients' integers (secure aggregation) can use such a codec.

    Attributes:
        bits: Bits of an integer: it is at least -2^(bits - 1) and below 2^(bits - 1).
        clients: Most messages in a sum; a sum has `bits + ceil(log2(clients))` bits, at most 32,
            unless it `wraps`.
        integers: `(payload, like) -> integers`: those of one message, int32 `[integers]`, for
            updates of the structure of `like`.
        failed: `(integers) -> failed`: whether the update of one message was not finite. Such
            integers must not be summed.
        total: `(integers, like) -> update`: the sum of the decoded updates, from the sum of the
            integers, in float32.
        clipped: `(integers) -> count`: entries that were clipped, in all summed updates.
        wraps: Whether sums are meant modulo 2^bits: `total` takes them modulo 2^32. Default: False,
            a sum never wraps.

    """

    bits: int
    clients: int
    integers: Callable[[Payload, Like], Int[Array, " integers"]]
    failed: Callable[[Int[Array, " integers"]], Bool[Array, ""]]
    total: Callable[[Int[Array, " integers"], Like], Update]
    clipped: Callable[[Int[Array, " integers"]], Float[Array, ""]]
    wraps: bool = False


class Compressor(NamedTuple):
    """A codec for updates: three pure functions, and two more for a receiver with memory.

    A sender calls `init` once, then `encode` for each message. A receiver calls `decode` for each
    message. Codecs with memory at the receiver (`ef21`, `diana`) also set `receiver` and
    `receive`: the receiver calls `receiver` once, then `receive` once a round. The defaults keep
    no memory and return the mean unchanged.

    Guarantees of every codec in this package. A codec of your own must give them too;
    `fedjax_compression.testing.check_compressor(codec)` checks it:

    - All five functions are pure and trace under `jit` and `vmap`, with static shapes: a repeated
      round traces once. `jit` equals eager evaluation, and `vmap` over clients equals a loop, to
      rounding.
    - `decode(encode(key, update, init(update))[0], update)` has the structure, shapes and dtypes
      of `update`. float32, bfloat16 and float16 leaves come back in their own dtype, also mixed
      in one update.
    - Scalars, leaves without entries and updates without leaves are valid updates.
    - `encode` raises `TypeError` for a leaf that is not floating-point, and names the leaf.
      `identity()` and `chain()` accept any leaf and return it unchanged.
    - The state after `encode` has the structure, shapes and dtypes of the state before.
    - Zeros decode to exactly zero from a fresh state (except in `predictive`); a constant update
      decodes to finite values.
    - An update with a NaN or an infinity decodes to at least one non-finite entry, so that the
      receiver can reject it, and the sender's state stays finite.
    - The payload is packed into whole bytes inside the program, so that its arrays are what
      `wire.dumps` writes. `decode` needs only the payload and `like`: random numbers that both
      ends need are derived from a seed in the payload.

    Receiver memory and `given` are for the outermost codec only: wrappers refuse a codec that has
    one of them. But `ef21` and `diana`, which are the memory, pass on what is given.

    Attributes:
        init: `(like) -> state`. The sender's state before its first message, for updates with the
            structure, shapes and dtypes of `like`.
        encode: `(key, update, state) -> (payload, state)`. Compress one update. `key` is a JAX key
            (`jax.random.key`) that is used for nothing else; `state` is that of `init` or of the
            last `encode`.
        decode: `(payload, like) -> update`. Decode a payload of `encode` or of `wire.loads`.
            `like` is the structure of the update.
        receiver: `(like) -> memory`. The receiver's memory before the first round.
        receive: `(mean, memory, share) -> (update, memory)`. Combine a round's mean with the
            memory. `mean` is the weighted mean of the decoded messages that count in the round;
            `share` is the sum of their weights over that of all senders, also those that sent
            nothing or failed: above 0 and at most 1. A downlink's `mean` is its one decoded
            message, and `share` 1. A mean with a NaN or an infinity gives a non-finite update and
            leaves the memory unchanged.
        given: `(known) -> codec`: the codec of a round in which both ends know an update that
            resembles what is sent, such as the last round's mean; it may be traced. The payload's
            structure and the state are those of the codec itself. None (default): nothing that is
            known helps.
        summable: How messages add up, for secure sums. None (default): they do not.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import Compressor, payload_structure, wire
        >>> half = Compressor(
        ...     init=lambda like: (),
        ...     encode=lambda key, update, state: (update.astype(jnp.float16), state),
        ...     decode=lambda payload, like: jnp.asarray(payload).astype(like.dtype),
        ... )
        >>> update = jnp.array([1.0, 0.5, -2.0])
        >>> payload, state = half.encode(jax.random.key(0), update, half.init(update))
        >>> message = wire.dumps(payload)
        >>> len(message)  # a header of 12 bytes and three entries of 2
        18
        >>> half.decode(wire.loads(message, payload_structure(half, update)), update).tolist()
        [1.0, 0.5, -2.0]

    """

    init: Callable[[Like], State]
    encode: Callable[[Key[Array, ""], Update, State], tuple[Payload, State]]
    decode: Callable[[Payload, Like], Update]
    receiver: Callable[[Like], Memory] = _no_memory
    receive: Callable[[Update, Memory, Float[Array, ""] | float], tuple[Update, Memory]] = (
        _mean_unchanged
    )
    given: Callable[[Update], "Compressor"] | None = None
    summable: Summable | None = None


def payload_structure(compressor: Compressor, like: Like) -> Payload:
    """Return the structure of a codec's payload, as `wire.loads` needs it, without encoding.

    Args:
        compressor: The codec.
        like: Structure of the updates: arrays or `jax.ShapeDtypeStruct`s. Nothing is computed and
            no memory is allocated, whatever the size.

    Returns:
        The payload with a `jax.ShapeDtypeStruct` for each array.

    Raises:
        TypeError: For something that is not a `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import eden, payload_structure, wire
        >>> like = jax.ShapeDtypeStruct((10**9,), jnp.float32)
        >>> wire.nbytes(payload_structure(eden(bits=2), like))  # a message of 10^9 entries
        250976580

    """
    check_compressor(compressor, who="payload_structure", name="compressor")

    def first_payload(key: Key[Array, ""], update: Update) -> Payload:
        return compressor.encode(key, update, compressor.init(update))[0]

    return jax.eval_shape(first_payload, jax.eval_shape(lambda: jr.key(0)), like)


def has_sender_state(compressor: Compressor, like: Like | None = None) -> bool:
    """Whether the sender keeps a state between messages.

    Args:
        compressor: The codec.
        like: What it sends. Default: a matrix, as some codecs keep a state for matrices alone.

    Returns:
        True if the state has an array.

    Example:
        >>> from fedjax_compression import codec
        >>> from fedjax_compression.contract import has_sender_state
        >>> has_sender_state(codec("power_sgd(rank=2)")), has_sender_state(codec("sign()"))
        (True, False)

    """
    probe = jax.ShapeDtypeStruct((64, 64), jnp.float32) if like is None else like
    return bool(jax.tree.leaves(jax.eval_shape(lambda: compressor.init(probe))))


def has_receiver_memory(compressor: Compressor) -> bool:
    """Return whether a receiver of this codec's messages keeps memory from round to round.

    Args:
        compressor: The codec.

    Returns:
        True for `ef21(...)`, `diana(...)` and codecs of your own whose `receiver` returns arrays.

    Raises:
        TypeError: For something that is not a `Compressor`.

    Example:
        >>> from fedjax_compression import codec, has_receiver_memory
        >>> has_receiver_memory(codec("ef21(top_k(fraction=0.1))"))
        True
        >>> has_receiver_memory(codec("error_feedback(top_k(fraction=0.1))"))
        False

    """
    check_compressor(compressor, who="has_receiver_memory", name="compressor")
    like = jax.ShapeDtypeStruct((1,), jnp.float32)
    return bool(jax.tree.leaves(jax.eval_shape(lambda: compressor.receiver(like))))


def check_compressor(value: Any, *, who: str, name: str = "codec") -> None:
    """Raise `TypeError` unless a value is a `Compressor`, with a remedy for common mistakes.

    Args:
        value: The argument.
        who: Function that was called.
        name: Name of the argument.

    Raises:
        TypeError: For anything else: a codec's text, a factory that was not called, a list.

    """
    if isinstance(value, Compressor):
        return
    remedy = ""
    if isinstance(value, str):
        remedy = f"codec({value!r}) makes one"
    elif isinstance(value, list | tuple):
        remedy = "chain(*codecs) makes one of several"
    elif callable(value):
        remedy = "call the factory first"
    raise TypeError(message(who, name, "a Compressor", value, remedy))


def check_inner(
    compressor: Compressor,
    *,
    who: str,
    name: str = "compressor",
    remedy: str = "",
    passes_given: bool = False,
) -> None:
    """Check that a wrapper's codec is a `Compressor` that may stand inside another.

    Args:
        compressor: The argument.
        who: Wrapper that was called.
        name: Name of the argument.
        remedy: What to do instead. Default: put the memory outside the wrapper.
        passes_given: Whether the wrapper has a `given` of its own, which calls the codec's.
            Default: False.

    Raises:
        TypeError: For something that is not a `Compressor`.
        ValueError: For a codec whose receiver keeps memory, and for one with `given` unless the
            wrapper passes it on.

    """
    check_compressor(compressor, who=who, name=name)
    if compressor.given is not None and not passes_given:
        raise ValueError(
            f"{who}: {name}: expected a codec that knows nothing but the update, got one that is "
            f"given another (preconditioned); it goes around codecs without state, and only ef21 "
            f"and diana go around it."
        )
    if has_receiver_memory(compressor):
        raise ValueError(
            f"{who}: {name}: expected a codec whose receiver keeps no memory, got one that does; "
            + (
                remedy
                or f"put memory at both ends outermost: ef21({who}(...)) or "
                f"diana({who}(...), rate=...)."
            )
        )
