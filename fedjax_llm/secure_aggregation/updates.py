"""From a codec's messages to the integers of a secure sum, and back."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression import Compressor, Summable, payload_structure
from fedjax_compression.contract import check_compressor
from jaxtyping import Int32, PyTree

from .server import Sum
from .setup import Setup, check_setup


class Mean(NamedTuple):
    """The mean of a secure sum.

    Attributes:
        update: Mean of the survivors' decoded updates, in float32.
        clipped: Entries that they clipped.

    """

    update: PyTree
    clipped: int


def codec_setup(
    codec: Compressor, like: PyTree, *, number: bytes, degree: int, threshold: int
) -> Setup:
    """The parameters of a secure sum of a codec's messages.

    Args:
        codec: A codec whose messages add up, such as `fixed_point(clip=1.0, clients=64)`. Its
            `clients` are the most of the round.
        like: Structure of an update: arrays or ShapeDtypeStructs.
        number: Number of the round, 16 bytes, as in `Setup`.
        degree: As in `Setup`.
        threshold: As in `Setup`.

    Returns:
        The checked `Setup`.

    Raises:
        TypeError: For anything but a `Compressor`.
        ValueError: For a codec whose messages do not add up, and for parameters out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_compression import fixed_point
        >>> from fedjax_llm.secure_aggregation import codec_setup
        >>> codec = fixed_point(clip=1.0, bits=16, clients=64)
        >>> setup = codec_setup(codec, jnp.zeros(100), number=bytes(16), degree=14, threshold=8)
        >>> setup.entries, setup.width  # a count of clipped entries has three digits
        (103, 22)

    """
    adds = _summable(codec, who="codec_setup")
    payload = payload_structure(codec, like)
    entries = jax.eval_shape(lambda sent: adds.integers(sent, like), payload).size
    setup = Setup(number, entries, adds.bits, adds.clients, degree, threshold, adds.wraps)
    check_setup(setup)
    return setup


def integers_of(codec: Compressor, payload: PyTree, like: PyTree) -> Int32[np.ndarray, " integers"]:
    """The integers of one message, for `Client.mask`.

    Args:
        codec: A codec whose messages add up.
        payload: What it encoded.
        like: Structure of the update.

    Returns:
        The integers.

    Raises:
        TypeError: For anything but a `Compressor`.
        ValueError: For a codec whose messages do not add up, and for an update that was not finite:
            its client must drop out of the round.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import fixed_point
        >>> from fedjax_llm.secure_aggregation import integers_of
        >>> codec, update = fixed_point(clip=3.5, bits=4, clients=4), jnp.array([1.5, -9.0])
        >>> payload, _ = codec.encode(jax.random.key(0), update, codec.init(update))
        >>> integers_of(codec, payload, update)[:3].tolist()  # steps of 1/2; one entry is clipped
        [3, -7, 1]

    """
    adds = _summable(codec, who="integers_of")
    integers = adds.integers(payload, like)
    if adds.failed(integers):
        raise ValueError(
            "integers_of: payload: expected that of a finite update, got one with a NaN or an "
            "infinity; its client must drop out of the round."
        )
    return np.asarray(integers)


def mean_of(codec: Compressor, result: Sum, like: PyTree) -> Mean:
    """The mean of the survivors' updates.

    Args:
        codec: The codec of their messages.
        result: The secure sum of their integers.
        like: Structure of an update.

    Returns:
        The `Mean`; its update is that of `secure_mean`, bit for bit.

    Raises:
        TypeError: For anything but a `Compressor`.
        ValueError: For a codec whose messages do not add up.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from fedjax_compression import fixed_point
        >>> from fedjax_llm.secure_aggregation import Sum, mean_of
        >>> codec, total = fixed_point(clip=3.5, bits=4, clients=4), np.array([6, -14] + [0] * 11)
        >>> mean_of(codec, Sum(total, (0, 3)), jnp.zeros(2)).update.tolist()  # of two clients
        [1.5, -3.5]

    """
    adds = _summable(codec, who="mean_of")
    integers = jnp.asarray(result.total.astype(np.int32))
    count = jnp.float32(len(result.survivors))
    update = jax.tree.map(lambda x: x / count, adds.total(integers, like))
    return Mean(update, int(adds.clipped(integers)))


def _summable(codec: Compressor, *, who: str) -> Summable:
    check_compressor(codec, who=who)
    if codec.summable is None:
        raise ValueError(
            f"{who}: codec: expected one whose messages add up as integers, such as "
            "fixed_point(clip=1.0, clients=64), got one whose messages do not."
        )
    return codec.summable
