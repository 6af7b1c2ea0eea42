"""Rules that need all updates of a round at once: the stack, and what is done with it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_integer, check_kind
from fedjax_compression.errors import message
from jaxtyping import Array, Bool, Float, Key, PyTree

from ..precision import float32_zeros
from .contract import Aggregator
from .rows import Rows, used
from .stacked import Stack, stacked

Rule = Callable[[Rows, Bool[Array, " clients"]], PyTree]
"""`(rows, chosen) -> update`: of the rows that `chosen` marks; the others hold zeros."""


class FromRound(NamedTuple):
    """A stack with what a round gives to its rule.

    Attributes:
        stack: The updates.
        key: Key data of the round's key for this rule.
        last: The last aggregate.

    """

    stack: Stack
    key: Array
    last: PyTree


class Changed(NamedTuple):
    """What a wrapper hands to its rule.

    Attributes:
        rows: New rows.
        weights: Their weights; zero for a row that no client is in.
        key: The round's key for the rule.

    """

    rows: Rows
    weights: Float[Array, " rows"]
    key: Key[Array, ""]


def held(rule: Rule, *, who: str, at_least: int = 1, why: str = "") -> Aggregator:
    """Build an aggregator that applies a rule to the rows of the accepted clients.

    Memory: 4 bytes per entry for every client of the cohort, beside what the rule takes. A cohort
    of fewer clients than the rule's condition is refused when the round is traced. If fewer are
    accepted in a round, the result is zero, and a server's momentum acts alone.

    Args:
        rule: `(rows, chosen) -> update`.
        who: The rule's name, for messages.
        at_least: Clients that the rule needs.
        why: The condition in words, such as "n >= 2 f + 3".

    Returns:
        The aggregator.

    """
    rows = stacked()

    def empty(like: PyTree, clients: int) -> Stack:
        check_cohort(clients, who=who, at_least=at_least, why=why)
        return rows.empty(like, clients)

    def finish(stack: Stack) -> PyTree:
        return if_enough(rule(stack.rows, used(stack)), stack.filled, at_least)

    return rows._replace(empty=empty, finish=finish)


def held_from_round(
    rule: Callable[[Rows, Bool[Array, " clients"], Key[Array, ""], PyTree], PyTree],
    *,
    who: str,
    at_least: int = 1,
    why: str = "",
) -> Aggregator:
    """`held` for a rule `(rows, chosen, key, last) -> update`; see `Aggregator.begin`."""
    rows = stacked()

    def begin(key: Key[Array, ""], last: PyTree, clients: int) -> FromRound:
        check_cohort(clients, who=who, at_least=at_least, why=why)
        return FromRound(rows.empty(last, clients), jr.key_data(key), last)

    def empty(like: PyTree, clients: int) -> FromRound:
        return begin(jr.key(0), float32_zeros(like), clients)

    def add(partial: FromRound, updates: PyTree, weights: Float[Array, " clients"]) -> FromRound:
        return partial._replace(stack=rows.add(partial.stack, updates, weights))

    def merge(one: FromRound, other: FromRound) -> FromRound:
        return one._replace(stack=rows.merge(one.stack, other.stack))

    def finish(partial: FromRound) -> PyTree:
        stack, key = partial.stack, jr.wrap_key_data(partial.key)
        update = rule(stack.rows, used(stack), key, partial.last)
        return if_enough(update, stack.filled, at_least)

    return Aggregator(empty, add, merge, finish, begin)


def held_before(
    rule: Aggregator,
    change: Callable[[Rows, Bool[Array, " clients"], Key[Array, ""]], Changed],
    *,
    who: str,
    rows_of: Callable[[int], int] = lambda clients: clients,
    at_least: int = 0,
    why: str = "",
) -> Aggregator:
    """Build an aggregator that changes the rows of a round and combines the new ones by a rule.

    Args:
        rule: What combines the new rows; a cohort that it refuses is refused here.
        change: `(rows, chosen, key) -> changed`.
        who: The wrapper's name, for messages.
        rows_of: Number of new rows of so many clients. Default: as many.
        at_least: Clients that the wrapper itself needs.
        why: That condition in words.

    Returns:
        The aggregator, with `begin`.

    """

    def combined(
        rows: Rows, chosen: Bool[Array, " clients"], key: Key[Array, ""], last: PyTree
    ) -> PyTree:
        new = change(rows, chosen, key)
        count = len(new.weights)
        partial = rule.begin(new.key, last, count) if rule.begin else rule.empty(last, count)
        return rule.finish(rule.add(partial, new.rows, new.weights))

    outer = held_from_round(combined, who=who, at_least=at_least, why=why)
    first = outer.begin
    assert first is not None  # noqa: S101 - as held_from_round makes it

    def begin(key: Key[Array, ""], last: PyTree, clients: int) -> PyTree:
        jax.eval_shape(lambda: rule.empty(last, rows_of(clients)))  # its condition, at the door
        return first(key, last, clients)

    def empty(like: PyTree, clients: int) -> PyTree:
        return begin(jr.key(0), float32_zeros(like), clients)

    return outer._replace(empty=empty, begin=begin)


def if_enough(update: PyTree, accepted: Array, at_least: int) -> PyTree:
    """The update, or zeros where fewer clients were accepted than the rule needs."""
    return jax.tree.map(lambda leaf: jnp.where(accepted >= at_least, leaf, 0.0), update)


def check_cohort(clients: int, *, who: str, at_least: int, why: str) -> None:
    """Raise `ValueError` for a cohort that is too small for a rule."""
    if clients < at_least:
        expected = f"a cohort of at least {at_least} clients{f' ({why})' if why else ''}"
        remedy = "draw more clients, or take a smaller f"
        raise ValueError(message(who, "clients", expected, clients, remedy))


def check_f(f: Any, *, who: str) -> None:
    """Raise `ValueError` unless `f` is a number of clients."""
    check_integer(f, who=who, name="f", at_least=0)


def check_rule(rule: Any, *, who: str) -> None:
    """Raise unless a wrapped rule is an `Aggregator`, without noise and of decoded updates."""
    remedy = "call the factory first" if callable(rule) else ""
    check_kind(rule, Aggregator, who=who, name="rule", expected="an Aggregator", remedy=remedy)
    if rule.noised is not None or rule.at_clients is not None:
        expected = "a rule without noise, which bounds what one client moves only as it stands"
        raise ValueError(message(who, "rule", expected, "a rule with noise"))
    if rule.summing is not None:
        expected = "a rule that combines decoded updates, as a secure sum shows none of them"
        raise ValueError(message(who, "rule", expected, "a rule with summing"))
