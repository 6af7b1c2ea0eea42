"""Distributed privacy: clients add integer noise, and the server learns their sum alone."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression import Compressor
from fedjax_compression.checks import check_choice, check_integer, check_number
from fedjax_compression.contract import Like, Payload, State, Summable, Update
from fedjax_compression.errors import message
from fedjax_compression.ops.bits import pack, unpack
from fedjax_compression.ops.flat import flatten, size, unflatten
from fedjax_compression.ops.hadamard import rotate, unrotate
from jaxtyping import Array, Float, Int, Key, PyTree

from ..privacy import DiscreteGaussian, Mechanism, Skellam, clip_rows
from ..privacy.integer_noise import (
    MOST_VARIANCE,
    draw_discrete_gaussian,
    draw_skellam,
    rounded_norms,
    scale_for,
)
from .contract import Aggregator, AtClients, Partial, Summing
from .secure_mean import secure_mean

_WORD = 32
_LEAST_DEVIATION = 0.5
"""Least parameter of a discrete Gaussian variable for which the bound is proven, in steps."""


def distributed_dp(
    clip: float | int,
    noise_multiplier: float | int,
    clients: int,
    least: int | None = None,
    bits: int = 16,
    tails: float | int = 5,
    noise: str = "skellam",
) -> Aggregator:
    """Add integer noise at each client, sum modulo 2^bits, and divide by the clients that answered.

    The Skellam mechanism of Agarwal, Kairouz and Liu (2021, arXiv:2110.04995) with the rounding of
    Kairouz, Liu and Steinke (2021, arXiv:2102.06387), or the distributed discrete Gaussian
    mechanism of the latter. A client clips its update to norm `clip`, rotates it, scales it to
    integer steps, rounds at random, again until the norm is within the bound that accounting has,
    adds noise of its own, and sends the integers modulo 2^bits. A sum of `least` clients has noise
    of standard deviation `noise_multiplier * clip` in each entry (of discrete Gaussian noise a
    little less, where a client's is near half a step), one of more clients has more. A sum of
    Skellam variables is a Skellam variable. A sum of discrete Gaussian variables is only nearly
    one, and the epsilon includes how nearly.

    Who learns what: a server that learns the sum alone (`fedjax_llm.secure_aggregation`) learns a
    noised sum, and so does whoever sees the model. One message has 1 / `least` of the variance: the
    epsilon says nothing of a server that sees messages. It assumes that at least `least` clients
    that answer add their noise; those that drop out may not depend on data. A round in which fewer
    answer is discarded, as the protocol's threshold must be: its sum counts as zeros.

    The unit is the client, the relation that its update is zeroed out. An update that is not finite
    is zero, and noised. Accounted by Renyi divergences, rounding included
    (`fedjax_llm.privacy.integer_noise`).

    Error: an entry of the sum beyond `tails` deviations wraps around, and nobody sees it. Messages:
    `bits` bits an entry. Memory: one update of integers. Streams. It brings its own codec: the
    run's uplink is `identity()`.

    Args:
        clip: Largest norm of an update, above 0.
        noise_multiplier: z of a sum of `least` clients, above 0.
        clients: Most clients of a round, at least 1.
        least: Clients whose noise the epsilon counts on, from 1 to `clients`. Default: `clients`;
            then a round with a drop-out is discarded.
        bits: Bits of an entry, from 2 to 32. Default: 16. With fewer, steps are wide, and rounding
            costs privacy: `epsilon` tells. Beyond some 20, steps stay as they are.
        tails: Deviations of an entry of the sum that fit into its range on each side, above 0.
            Default: 5.
        noise: "skellam" (default) or "discrete_gaussian".

    Returns:
        The `Aggregator`, with `at_clients` and `summing`.

    Raises:
        ValueError: For a number out of range, for another noise, for bits that rounding alone would
            fill, and for discrete Gaussian noise of less than half a step at each client.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.aggregators import distributed_dp
        >>> rule, like = distributed_dp(1.0, 0.5, clients=2), jnp.zeros(100)
        >>> codec, mechanism = rule.at_clients.build(None, like)
        >>> summing = rule.summing(codec, like)
        >>> rows = jnp.zeros((2, 100)).at[:, 3].set(jnp.array([0.5, 8.0]))
        >>> encode = jax.jit(jax.vmap(lambda key, row: codec.encode(key, row, ())[0]))
        >>> sent = encode(jax.random.split(jax.random.key(0), 2), rows)
        >>> read = jax.vmap(summing.read)(sent)
        >>> partial = summing.rule.add(summing.rule.empty(like, 2), read, jnp.ones(2))
        >>> mean = summing.rule.finish(partial)  # (0.5 + 1) / 2, and noise of deviation 0.5 / 2
        >>> bool(abs(mean[3] - 0.75) < 1.0), bool(abs(mean.std() - 0.25) < 0.1)
        (True, True)

    """
    who = "distributed_dp"
    check_number(clip, who=who, name="clip", above=0)
    check_number(noise_multiplier, who=who, name="noise_multiplier", above=0)
    check_integer(clients, who=who, name="clients", at_least=1, at_most=2**20)
    least = clients if least is None else least
    check_integer(least, who=who, name="least", at_least=1, at_most=clients)
    check_integer(bits, who=who, name="bits", at_least=2, at_most=_WORD)
    check_number(tails, who=who, name="tails", above=0)
    check_choice(noise, ("skellam", "discrete_gaussian"), who=who, name="noise")
    deviation = noise_multiplier * clip / math.sqrt(least)  # of each client
    scale_for(clip, deviation, entries=2**20, clients=clients, bits=bits, tails=tails)

    def scale_of(like: Like) -> float:
        entries = max(size(like), 1)
        largest = scale_for(
            clip, deviation, entries=entries, clients=clients, bits=bits, tails=tails
        )
        return min(
            largest, 0.999 * math.sqrt(MOST_VARIANCE) / deviation
        )  # finer steps gain nothing

    def build(codec: Compressor | None, like: PyTree) -> tuple[Compressor, Mechanism]:
        if codec is not None:
            expected = "none, as the rule brings the codec of its integers"
            raise ValueError(message(who, "uplink", expected, "one"))
        scale = scale_of(like)
        l2, l1 = rounded_norms(clip, entries=size(like), scale=scale)
        variance, own = (noise_multiplier * clip) ** 2, scale * deviation
        released: Skellam | DiscreteGaussian = Skellam(scale, variance, l2, l1)
        if noise == "discrete_gaussian":
            if own < _LEAST_DEVIATION:
                expected = "more, for noise of half a step or more at each client"
                raise ValueError(message(who, "bits", expected, f"{bits}, for {own:.2g} of a step"))
            released = DiscreteGaussian(scale, variance, l2, l1, size(like), own, clients)
        mechanism = Mechanism(noise_multiplier, at_clients=True, integers=released)
        draw = draw_skellam if noise == "skellam" else draw_discrete_gaussian
        coder = _integers(clip, scale, l2 * scale, own**2, bits, clients, draw)
        return coder, mechanism

    def summing(codec: Compressor, like: PyTree) -> Summing:
        plain = secure_mean().summing
        assert plain is not None  # noqa: S101 - as secure_mean promises
        made = plain(codec, like)
        rule = made.rule

        def empty(like: PyTree, cohort: int) -> Partial:
            if cohort < least:
                expected = f"at least {least}, whose noise the epsilon counts on"
                raise ValueError(message(who, "cohort", expected, cohort))
            return rule.empty(like, cohort)

        def finish(partial: Partial) -> PyTree:
            enough = partial.counted >= least
            return jax.tree.map(lambda x: jnp.where(enough, x, 0.0), rule.finish(partial))

        return made._replace(rule=rule._replace(empty=empty, finish=finish))

    return secure_mean()._replace(summing=summing, at_clients=AtClients(build))


def _integers(
    clip: float | int,
    scale: float,
    bound: float,
    variance: float,
    bits: int,
    clients: int,
    noise: Callable[[Key[Array, ""], float, int], Int[Array, " entries"]],
) -> Compressor:
    """The codec of noised integers modulo 2^bits; their norm without noise is at most `bound`."""
    who = "distributed_dp"
    seed = 0  # of a rotation that is public and the same for all clients, so that sums rotate back
    lost = _WORD - bits

    def rounded(key: Key[Array, ""], x: Float[Array, " entries"]) -> Int[Array, " entries"]:
        def draw(carry: tuple) -> tuple:
            key, _, _ = carry
            key, own = jr.split(key)
            low = jnp.floor(x)
            code = low + (jr.uniform(own, x.shape, jnp.float32) < x - low)
            within = jnp.sqrt((code**2).sum()) <= jnp.float32(bound * (1 - 1e-5))
            return key, code, within

        begun = draw((key, x, jnp.array(False)))
        return jax.lax.while_loop(lambda carry: ~carry[2], draw, begun)[1].astype(jnp.int32)

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        rounding_key, noise_key = jr.split(key)
        rows, _ = clip_rows(jax.tree.map(lambda leaf: leaf[None], update), clip)
        x = flatten(jax.tree.map(lambda leaf: leaf[0], rows), who=who)
        code = rounded(rounding_key, rotate(x, jnp.uint32(seed)) * jnp.float32(scale))
        code = (code + noise(noise_key, variance, x.size)).astype(jnp.uint32)
        return pack(code & jnp.uint32(2**bits - 1), bits=bits), state

    def modulo(integers: Int[Array, " integers"]) -> Int[Array, " integers"]:
        return (integers << lost) >> lost  # of 32-bit words, whose sums wrap modulo 2^32

    def integers_of(payload: Payload, like: Like) -> Int[Array, " integers"]:
        unsigned = unpack(payload, size(like), bits=bits)
        return modulo(jax.lax.bitcast_convert_type(unsigned, jnp.int32))

    def total(integers: Int[Array, " integers"], like: Like) -> Update:
        whole = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
        x = modulo(integers).astype(jnp.float32) / jnp.float32(scale)
        return unflatten(unrotate(x, jnp.uint32(seed)), whole)

    def decode(payload: Payload, like: Like) -> Update:
        whole = total(integers_of(payload, like), like)
        return jax.tree.map(lambda x, leaf: x.astype(leaf.dtype), whole, like)

    summable = Summable(
        bits,
        clients,
        integers_of,
        lambda integers: jnp.array(False),  # an update that is not finite is zero, and noised
        total,
        lambda integers: jnp.float32(0),  # a count of what was clipped would have no noise
        wraps=True,
    )
    return Compressor(lambda like: (), encode, decode, summable=summable)
