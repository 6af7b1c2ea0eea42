"""Fixed-point numbers of one scale for all clients, so that messages add up as integers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from ..checks import check_integer, check_number
from ..contract import Compressor, Like, Payload, State, Summable, Update
from ..errors import message
from ..ops.bits import pack, sum_width, unpack
from ..ops.flat import flatten, size, unflatten

_MOST_WIDTH = 32
_COUNT_BITS = 32


class FixedPoint(NamedTuple):
    """Payload of an update.

    Attributes:
        packed: Integers in two's complement, in the bits of their sum each: one for each entry,
            then the number of clipped entries in digits.

    """

    packed: UInt8[Array, " bytes"]


def fixed_point(*, clip: float | int, bits: int = 16, clients: int = 64) -> Compressor:
    """Clip each entry to [-clip, clip] and round it at random to one of 2^bits - 1 even steps.

    All clients have the same steps, clip / (2^(bits - 1) - 1) apart, so that the sum of their
    integers is the integer of their sum: the codec of `secure_mean` and of
    `fedjax_llm.secure_aggregation`. An integer is sent in as many bits as a sum of `clients` has,
    which is what it takes once it is masked.

    Guarantees: unbiased over keys for entries within the clip, to rounding of float32; an error
    below one step. Entries beyond the clip are biased towards it: they are counted, and the count
    is part of the message and of the sum. Zero is exact. An entry that is not finite decodes to
    NaN.

    Payload: `bits + ceil(log2(clients))` bits per entry, and for each digit of the count.

    Args:
        clip: Largest magnitude, from 2^-64 to 2^64: public, and the same for all clients. A few
            times the largest entry that is expected; a larger one only makes steps wider.
        bits: Bits of an entry, from 2 to 24. Default: 16.
        clients: Most clients of a round. Default: 64. With the bits it fixes the width of sums, at
            most 32.

    Returns:
        A stateless `Compressor` with `summable`.

    Raises:
        ValueError: For a number out of range, and for sums of more than 32 bits.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import fixed_point, wire
        >>> c, x = fixed_point(clip=3.5, bits=4, clients=4), jnp.array([1.5, -3.5, 9.0])
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))  # steps of 1/2
        >>> c.decode(payload, x).tolist()
        [1.5, -3.5, 3.5]
        >>> integers = c.summable.integers(payload, x)
        >>> integers[:3].tolist(), int(c.summable.clipped(integers))
        ([3, -7, 7], 1)
        >>> c.summable.total(2 * integers, x).tolist()  # of two such messages
        [3.0, -7.0, 7.0]
        >>> wire.nbytes(payload)  # 12 of header; 3 entries and 11 digits of 4 + 2 bits
        23

    """
    who = "fixed_point"
    check_number(clip, who=who, name="clip", at_least=2.0**-64, at_most=2.0**64)
    check_integer(bits, who=who, name="bits", at_least=2, at_most=24)
    check_integer(clients, who=who, name="clients", at_least=1, at_most=2**30)
    width = sum_width(bits, clients)
    if width > _MOST_WIDTH:
        expected = f"at most {2 ** (_MOST_WIDTH - bits)} with bits={bits}, whose sum has 32 bits"
        raise ValueError(message(who, "clients", expected, clients))
    top, not_finite = 2 ** (bits - 1) - 1, -(2 ** (bits - 1))
    step = clip / top
    digit = bits - 1
    digits = -(-_COUNT_BITS // digit)
    places = np.arange(digits, dtype=np.uint32) * digit

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who=who).astype(jnp.float32)
        finite = jnp.isfinite(x)
        position = jnp.where(finite, x, 0.0) / step
        low = jnp.floor(position)
        up = jr.uniform(key, x.shape, jnp.float32) < position - low
        code = low + up.astype(jnp.float32)
        code = jnp.where(finite, code.clip(-top, top), float(not_finite)).astype(jnp.int32)
        clipped = (finite & (jnp.abs(x) > clip)).sum(dtype=jnp.uint32)
        count = (clipped >> places) & jnp.uint32(top)
        integers = jnp.concatenate([code.astype(jnp.uint32), count])
        return FixedPoint(pack(integers & jnp.uint32(2**width - 1), bits=width)), state

    def integers_of(payload: FixedPoint, like: Like) -> Int[Array, " integers"]:
        unsigned = unpack(payload.packed, size(like) + digits, bits=width)
        moved = unsigned << (_MOST_WIDTH - width)  # so that the sign is the first bit
        return jax.lax.bitcast_convert_type(moved, jnp.int32) >> (_MOST_WIDTH - width)

    def decode(payload: Payload, like: Like) -> Update:
        code = integers_of(payload, like)[: size(like)]
        x = code.astype(jnp.float32) * jnp.float32(step)
        return unflatten(jnp.where(code == not_finite, jnp.nan, x), like)

    def failed(integers: Int[Array, " integers"]) -> Bool[Array, ""]:
        return (integers[: integers.size - digits] == not_finite).any()

    def total(integers: Int[Array, " integers"], like: Like) -> Update:
        whole = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
        return unflatten(integers[: size(like)].astype(jnp.float32) * jnp.float32(step), whole)

    def clipped(integers: Int[Array, " integers"]) -> Float[Array, ""]:
        of = integers[integers.size - digits :].astype(jnp.float32)
        return (of * 2.0 ** places.astype(jnp.float32)).sum()

    summable = Summable(bits, clients, integers_of, failed, total, clipped)
    return Compressor(lambda like: (), encode, decode, summable=summable)
