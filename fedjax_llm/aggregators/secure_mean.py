"""The mean from a sum of integers, which is all that secure aggregation gives."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor, payload_structure
from fedjax_compression.contract import check_compressor
from fedjax_compression.errors import message
from jaxtyping import Array, Float, Int, PyTree

from .contract import Aggregator, Summing


class Summand(NamedTuple):
    """What `secure_mean` folds in of a client.

    Attributes:
        integers: Those of its message.
        finite: 0, or NaN if its update was not finite: such a client sends nothing.

    """

    integers: Int[Array, "*clients integers"]
    finite: Float[Array, "*clients"]


class IntegerSum(NamedTuple):
    """Partial of `secure_mean`.

    Attributes:
        integers: Sum of the clients' integers.
        counted: Number of clients.

    """

    integers: Int[Array, " integers"]
    counted: Int[Array, ""]


def secure_mean() -> Aggregator:
    """Sum the integers of clients' messages, and divide the sum by the number of clients.

    What a server computes that learns the sum and nothing else (secure aggregation, Bonawitz et
    al. 2017): the integers that `fedjax_llm.secure_aggregation.run_round` sums are these, and its
    sum is this one, to the last bit. A simulation masks nothing. It sends what a masked message
    holds, in as many bits; keys and shares are not sent, and not counted.

    Every client counts alike. Needs an uplink whose messages add up, such as
    `fixed_point(clip=1.0, clients=64)`, alone or in `error_feedback`, and a cohort of at most its
    `clients`, or a sum could wrap around. An update that is not finite is left out and counted as
    failed: its client would drop out. `ServerInfo.clipped` counts the entries that were clipped.

    Memory: one update of integers. Streams. Robust: no; a server that sees sums cannot be.

    Returns:
        The `Aggregator`, with `summing`. A method without it refuses the rule.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import fixed_point
        >>> from fedjax_llm.aggregators import secure_mean
        >>> codec, like = fixed_point(clip=3.5, bits=4, clients=4), jnp.zeros(2)
        >>> read, rule, clipped, *_ = secure_mean().summing(codec, like)
        >>> rows = jnp.array([[1.0, 0.5], [2.0, -3.5], [0.0, 99.0]])
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> payloads = jax.vmap(lambda key, row: codec.encode(key, row, ())[0])(keys, rows)
        >>> sent = jax.vmap(read)(payloads)
        >>> partial = rule.add(rule.empty(jax.eval_shape(lambda: sent), 3), sent, jnp.ones(3))
        >>> (3 * rule.finish(partial)).tolist(), int(clipped(partial))
        ([3.0, 0.5], 1)

    """
    expected = "a method that adds the integers of messages, such as fed_avg"

    def without_codec(*_: Any) -> Any:
        raise ValueError(message("secure_mean", "summing", expected, "a call without a codec"))

    def empty(like: PyTree, clients: int) -> PyTree:
        return ()

    return Aggregator(empty, without_codec, without_codec, without_codec, summing=_summing)


def _summing(codec: Compressor, like: PyTree) -> Summing:
    check_compressor(codec, who="secure_mean", name="uplink")
    adds = codec.summable
    if adds is None:
        raise ValueError(
            "secure_mean: uplink: expected a codec whose messages add up as integers, such as "
            "fixed_point(clip=1.0, clients=64), got one whose messages do not: each has a scale, "
            "a support or a length of its own."
        )
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)

    def read(payload: PyTree) -> Summand:
        integers = adds.integers(payload, structure)
        return Summand(integers, jnp.where(adds.failed(integers), jnp.nan, jnp.float32(0)))

    size = jax.eval_shape(read, payload_structure(codec, structure)).integers.shape

    def empty(like: PyTree, clients: int) -> IntegerSum:
        if clients > adds.clients:
            expected = f"at most {adds.clients}, for whose sum the codec has room"
            remedy = f"fixed_point(clients={clients}) has more"
            raise ValueError(message("secure_mean", "clients", expected, clients, remedy))
        return IntegerSum(jnp.zeros(size, jnp.int32), jnp.int32(0))

    def add(partial: IntegerSum, updates: Summand, weights: Float[Array, " clients"]) -> IntegerSum:
        counts = weights > 0
        chosen = jnp.where(counts[:, None], updates.integers, 0)
        return IntegerSum(
            partial.integers + chosen.sum(axis=0, dtype=jnp.int32),
            partial.counted + counts.sum(dtype=jnp.int32),
        )

    def merge(one: IntegerSum, other: IntegerSum) -> IntegerSum:
        return jax.tree.map(jnp.add, one, other)

    def add_sum(
        partial: IntegerSum, total: Int[Array, " integers"], counted: Int[Array, ""]
    ) -> IntegerSum:
        return merge(partial, IntegerSum(total, counted))

    def finish(partial: IntegerSum) -> PyTree:
        counted = jnp.maximum(partial.counted, 1).astype(jnp.float32)
        return jax.tree.map(lambda x: x / counted, adds.total(partial.integers, structure))

    def clipped(partial: IntegerSum) -> Float[Array, ""]:
        return adds.clipped(partial.integers)

    return Summing(read, Aggregator(empty, add, merge, finish), clipped, adds, add_sum)
