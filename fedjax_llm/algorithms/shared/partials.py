"""The server's side of a round: the fold of decoded updates, and the step that follows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.checks import check_function, check_kind
from fedjax_compression.errors import message
from jaxtyping import Array, Float, Int, Key, PyTree, UInt32

from ...aggregators.contract import Aggregator, Summing
from ...aggregators.failures import leave_out_failed
from ...algorithm import AddStale, Gather, IntegerSums, ServerInfo, ServerState, Uplink
from ...client_training import Params
from ...precision import float32_zeros
from .trees import choose


class RoundOfRule(NamedTuple):
    """What a server keeps for a rule with `begin`.

    Attributes:
        key: Key data; half of the key is the next round's for the rule, half is kept for later.
        last: The last aggregate, in float32.

    """

    key: UInt32[Array, " words"]
    last: PyTree


def first_round(aggregate: Aggregator, key: Key[Array, ""], like: PyTree) -> Any:
    """What a server keeps for its rule before the first round.

    The `RoundOfRule` of a rule with `begin`, the memory of a rule with noise; else empty.
    """
    if aggregate.noised is not None:
        return aggregate.noised.init()
    if aggregate.begin is None:
        return ()
    return RoundOfRule(jr.key_data(key), float32_zeros(like))


def next_round(of_rule: Any, update: PyTree) -> Any:
    """The `RoundOfRule` after a round whose aggregate was `update`; empty if it was."""
    if not isinstance(of_rule, RoundOfRule):
        return ()
    _, kept = jr.split(jr.wrap_key_data(of_rule.key))
    return RoundOfRule(jr.key_data(kept), update)


def finish_round(
    aggregate: Aggregator, key: Key[Array, ""], of_rule: Any, total: PyTree
) -> tuple[PyTree, Any]:
    """The combined update of a round, and what the server keeps for the rule's next round.

    Args:
        aggregate: The rule.
        key: The key of the server's step, from which a rule with noise draws it.
        of_rule: What the server keeps for the rule.
        total: The rule's merged partial.

    Returns:
        The update, and the new `of_rule`.

    """
    if aggregate.noised is not None:
        return aggregate.noised.finish(key, of_rule, total)
    update = aggregate.finish(total)
    return update, next_round(of_rule, update)


class PartialAggregate(NamedTuple):
    """Partial of `gather_updates`.

    Attributes:
        aggregate: Partial of the aggregator.
        accepted: Number of clients folded in.
        failed: Number of clients left out because their update was not finite.

    """

    aggregate: PyTree
    accepted: Int[Array, ""]
    failed: Int[Array, ""]


def gather_updates(
    decode: Callable[[ServerState, Uplink], PyTree],
    aggregate: Aggregator,
    like: PyTree,
    *,
    round_of: Callable[[ServerState], Any] | None = None,
) -> Gather:
    """Build a `Gather` that decodes each uplink, leaves out failed clients, and aggregates.

    Args:
        decode: `(server_state, uplink) -> update`, of one client.
        aggregate: Rule that combines the decoded updates.
        like: Structure of a decoded update: arrays or ShapeDtypeStructs.
        round_of: `(server_state) -> round`: what the server's state keeps for a rule with `begin`
            or with noise. Default: none, and such a rule is refused.

    Returns:
        A `Gather` whose partial is a `PartialAggregate`.

    Raises:
        TypeError: For a `decode` that cannot be called, and for anything but an `Aggregator`.
        ValueError: For a rule with `begin` or noise without `round_of`, and for one with `summing`
            or `at_clients`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm import weighted_mean
        >>> from fedjax_llm.algorithms.shared import gather_updates
        >>> mean = weighted_mean()
        >>> gather = gather_updates(lambda state, uplink: 2.0 * uplink, mean, jnp.zeros(2))
        >>> uplinks = jnp.array([[1.0, 2.0], [3.0, 4.0], [jnp.nan, 0.0]])
        >>> partial = gather.add(None, gather.empty(None, 3), uplinks, jnp.ones(3))
        >>> mean.finish(partial.aggregate).tolist(), int(partial.accepted), int(partial.failed)
        ([4.0, 6.0], 2, 1)

    """
    check_function(
        decode, who="gather_updates", name="decode", signature="(server_state, uplink) -> update"
    )
    check_kind(
        aggregate, Aggregator, who="gather_updates", name="aggregate", expected="an Aggregator"
    )

    begin, noised = aggregate.begin, aggregate.noised
    if aggregate.summing:
        expected = "a rule that combines decoded updates, or what its summing(codec, like) gives"
        raise ValueError(message("gather_updates", "aggregate", expected, "a rule with summing"))
    if aggregate.at_clients:
        expected = "a rule whose noise is not at the clients, or a method such as fed_avg"
        raise ValueError(message("gather_updates", "aggregate", expected, "one with at_clients"))
    if (begin or noised) and round_of is None:
        expected = "a rule that depends on no round, or a round_of that keeps one for it"
        got = "a rule with begin" if begin else "a rule with noise"
        raise ValueError(message("gather_updates", "aggregate", expected, got))

    def empty(state: ServerState, clients: int) -> PartialAggregate:
        zero = jnp.zeros((), jnp.int32)
        if noised and round_of:
            return PartialAggregate(noised.begin(round_of(state), like, clients), zero, zero)
        if begin is None or round_of is None:
            return PartialAggregate(aggregate.empty(like, clients), zero, zero)
        of_rule = round_of(state)
        key, _ = jr.split(jr.wrap_key_data(of_rule.key))
        return PartialAggregate(begin(key, of_rule.last, clients), zero, zero)

    def add(
        state: ServerState,
        partial: PartialAggregate,
        uplinks: Uplink,
        weights: Float[Array, " clients"],
    ) -> PartialAggregate:
        decoded = jax.vmap(lambda uplink: decode(state, uplink))(uplinks)
        updates, weights, failed = leave_out_failed(decoded, weights)
        return PartialAggregate(
            aggregate.add(partial.aggregate, updates, weights),
            partial.accepted + (weights > 0).sum(dtype=jnp.int32),
            partial.failed + failed.sum(dtype=jnp.int32),
        )

    def merge(one: PartialAggregate, other: PartialAggregate) -> PartialAggregate:
        return PartialAggregate(
            aggregate.merge(one.aggregate, other.aggregate),
            one.accepted + other.accepted,
            one.failed + other.failed,
        )

    return Gather(empty, add, merge)


def integer_sums(summing: Summing, payload: PyTree, like: PyTree) -> IntegerSums:
    """Build the `sums` that belong to `gather_updates(summing.read, summing.rule, like)`.

    Args:
        summing: The rule that adds integers, of one codec.
        payload: Structure of one message.
        like: Structure of an update.

    Returns:
        How a server gets on with the sum of the integers.

    """
    adds = summing.adds

    def integers(payload: Uplink) -> Int[Array, " integers"]:
        return adds.integers(payload, like)

    def add(
        partial: PartialAggregate, total: Int[Array, " integers"], counted: Int[Array, ""]
    ) -> PartialAggregate:
        combined = summing.add_sum(partial.aggregate, total, counted)
        return PartialAggregate(combined, partial.accepted + counted, partial.failed)

    entries = jax.eval_shape(integers, payload).size
    return IntegerSums(entries, adds.bits, adds.clients, adds.wraps, integers, adds.failed, add)


def times(update: PyTree, discount: Float[Array, ""]) -> PyTree:
    """An update multiplied by a number, in float32."""
    return jax.tree.map(lambda leaf: discount * leaf.astype(jnp.float32), update)


def stale_adder(
    decode: Callable[[ServerState, Uplink], PyTree],
    aggregate: Aggregator,
    like: PyTree,
    *,
    discounted: Callable[[PyTree, Float[Array, ""]], PyTree] = times,
    round_of: Callable[[ServerState], Any] | None = None,
) -> AddStale:
    """Build the `add_stale` that belongs to `gather_updates(decode, aggregate, like)`.

    Args:
        decode: `(server_state, uplink) -> update`, of one client.
        aggregate: Rule that combines the decoded updates.
        like: Structure of a decoded update: arrays or ShapeDtypeStructs.
        discounted: `(update, discount) -> update`. Default: their product.
        round_of: As for `gather_updates`.

    Returns:
        The function.

    """

    def decode_discounted(state: ServerState, sent: tuple[Uplink, Float[Array, ""]]) -> PyTree:
        return discounted(decode(state, sent[0]), sent[1])

    gather = gather_updates(decode_discounted, aggregate, like, round_of=round_of)

    def add_stale(
        state: ServerState,
        partial: PartialAggregate,
        uplinks: Uplink,
        weights: Float[Array, " clients"],
        discounts: Float[Array, " clients"],
    ) -> PartialAggregate:
        return gather.add(state, partial, (uplinks, discounts), weights)

    return add_stale


def server_result(
    partial: PartialAggregate,
    new: ServerState,
    old: ServerState,
    update: PyTree,
    *,
    always: bool = False,
) -> tuple[ServerState, ServerInfo]:
    """Choose the new server state, or the old one if no client was accepted; and make the metrics.

    Args:
        partial: The merged partial of the cohort.
        new: The state after the server's step.
        old: The state before it, of the same structure.
        update: The aggregated update, for its norm.
        always: Take the new state even so, as a release of noise must not tell whether anyone
            answered. Default: False.

    Returns:
        The state, and a `ServerInfo`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms.shared import PartialAggregate, server_result
        >>> nobody = PartialAggregate((), jnp.int32(0), jnp.int32(2))
        >>> state, info = server_result(nobody, jnp.float32(5), jnp.float32(1), jnp.zeros(2))
        >>> float(state), int(info.failed)
        (1.0, 2)

    """
    state = new if always else choose(partial.accepted > 0, new, old)
    return state, ServerInfo(partial.accepted, partial.failed, optax.tree.norm(update))


def server_step(
    optimizer: optax.GradientTransformation, params: Params, memory: optax.OptState, update: PyTree
) -> tuple[Params, optax.OptState]:
    """Take one step of an optimizer with minus the update as the gradient.

    Args:
        optimizer: The server's Optax optimizer.
        params: The server's parameters.
        memory: The optimizer's state.
        update: The aggregated update, in the structure of `params`.

    Returns:
        The new parameters and optimizer state.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.algorithms.shared import server_step
        >>> optimizer, params = optax.sgd(0.5), jnp.array([1.0, 2.0])
        >>> params, _ = server_step(optimizer, params, optimizer.init(params), jnp.ones(2))
        >>> params.tolist()
        [1.5, 2.5]

    """
    gradient = jax.tree.map(lambda u, p: -u.astype(p.dtype), update, params)
    step, memory = optimizer.update(gradient, memory, params)
    return optax.apply_updates(params, step), memory
