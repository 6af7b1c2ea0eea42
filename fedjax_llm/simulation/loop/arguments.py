"""Checks of the arguments of `simulate` and its siblings, made when they are called."""

from collections.abc import Mapping
from typing import Any

from fedjax_compression.checks import check_kind
from fedjax_compression.errors import message

from ...algorithm import FederatedAlgorithm, SplitMethod
from ...attacks.contract import Attack
from ...checks import check_count
from ...data import Batching, ClientData, HoldOut
from ..client_axes.auto import Auto
from ..client_axes.contract import ClientAxis
from ..conditions.availability import Availability
from ..conditions.contract import Conditions
from ..conditions.deadline import Deadline
from ..conditions.faults import Faults
from ..conditions.network import Network
from .client_store import ClientStore
from .compiled_rounds import CompiledRounds
from .round import Round, Snapshot

_CONDITIONS: Mapping[str, type] = {
    "faults": Faults,
    "network": Network,
    "deadline": Deadline,
    "availability": Availability,
    "attack": Attack,
}


def check_algorithm(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a `FederatedAlgorithm`."""
    remedy = ""
    if isinstance(value, SplitMethod):
        remedy = "simulate_split runs a SplitMethod"
    elif callable(value):
        remedy = "call the factory first"
    elif isinstance(value, str):
        remedy = "fed_avg(loss, params, client_optimizer=...) makes one"
    expected = "a FederatedAlgorithm"
    check_kind(
        value, FederatedAlgorithm, who=who, name="algorithm", expected=expected, remedy=remedy
    )


def check_split_method(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a `SplitMethod`."""
    remedy = ""
    if isinstance(value, FederatedAlgorithm):
        remedy = "simulate runs a FederatedAlgorithm"
    elif callable(value):
        remedy = "call the factory first"
    check_kind(value, SplitMethod, who=who, name="method", expected="a SplitMethod", remedy=remedy)


def check_corpus(value: Any, *, who: str, name: str = "corpus") -> None:
    """Raise `TypeError` unless a value is `ClientData`."""
    remedy = ""
    if isinstance(value, HoldOut):
        remedy = "pass its .train"
    elif isinstance(value, Mapping):
        remedy = "byte_corpus(texts) makes a Corpus from a text for each client"
    expected = "ClientData such as a Corpus"
    check_kind(value, ClientData, who=who, name=name, expected=expected, remedy=remedy)


def check_batching(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a `Batching`."""
    remedy = "Batching(seq=..., batch=..., steps=...) makes one"
    check_kind(value, Batching, who=who, name="batching", expected="a Batching", remedy=remedy)


def check_rounds(rounds: int, seed: int, *, who: str) -> None:
    """Raise `ValueError` unless `rounds` is an integer of at least 0 and `seed` an integer."""
    check_count(rounds, who=who, name="rounds", at_least=0)
    check_count(seed, who=who, name="seed", at_least=None)


def check_clients(
    clients: int, population: int, *, who: str, among: str = "the clients of the corpus"
) -> None:
    """Raise `ValueError` unless a round can draw that many clients."""
    try:
        check_count(clients, who=who, name="clients", at_least=1, at_most=population)
    except ValueError:
        expected = f"an integer from 1 to {population}, {among}"
        raise ValueError(message(who, "clients", expected, clients)) from None


def check_every_round(
    algorithm: FederatedAlgorithm,
    clients: int,
    population: int,
    conditions: Conditions,
    *,
    who: str,
) -> None:
    """Raise `ValueError` where an algorithm with `every_round` would miss a client's message."""
    if not algorithm.every_round:
        return
    why = "as the algorithm needs every client in every round"
    if clients < population:
        raise ValueError(message(who, "clients", f"{population}, {why}", clients))
    for name in ("faults", "deadline"):
        if (condition := getattr(conditions, name)) is not None:
            raise ValueError(message(who, f"conditions.{name}", f"None, {why}", condition))


def check_client_axis(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a `ClientAxis` or None."""
    if value is None:
        return
    remedy = ""
    if isinstance(value, str):
        remedy = f"call the factory, such as {value if value.endswith(')') else 'vmap()'}"
    elif callable(value):
        remedy = "call the factory first"
    elif isinstance(value, Auto):
        remedy = "fastest(...) finds one"
    expected = "a ClientAxis such as vmap()"
    check_kind(value, ClientAxis, who=who, name="client_axis", expected=expected, remedy=remedy)


def check_conditions(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is `Conditions` whose fields have the right kinds.

    Raises `ValueError` for a deadline or an availability without a network.
    """
    remedy = _wrap_in_conditions(value)
    check_kind(value, Conditions, who=who, name="conditions", expected="Conditions", remedy=remedy)
    for name, kind in _CONDITIONS.items():
        condition = getattr(value, name)
        if condition is not None:
            check_kind(
                condition,
                kind,
                who=who,
                name=f"conditions.{name}",
                expected=f"{kind.__name__} or None",
                remedy=_wrap_in_conditions(condition),
            )
    for name in ("deadline", "availability"):
        if getattr(value, name) is not None and value.network is None:
            raise ValueError(
                f"{who}: conditions.network: expected a network, as {name} is in simulated "
                "seconds, got None; add network=link(...)."
            )


def check_start(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a `Snapshot` or None."""
    if value is None:
        return
    remedy = "call a round's snapshot()" if isinstance(value, Round) or callable(value) else ""
    check_kind(value, Snapshot, who=who, name="start", expected="a Snapshot", remedy=remedy)


def check_store(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is a `ClientStore` or None."""
    if value is not None:
        check_kind(value, ClientStore, who=who, name="store", expected="a ClientStore")


def check_compiled(value: Any, *, who: str) -> None:
    """Raise `TypeError` unless a value is `CompiledRounds` or None."""
    if value is not None:
        remedy, expected = "call CompiledRounds()" if callable(value) else "", "CompiledRounds"
        check_kind(
            value, CompiledRounds, who=who, name="compiled", expected=expected, remedy=remedy
        )


def _wrap_in_conditions(value: Any) -> str:
    """The remedy for a single condition, such as `Faults`, in a wrong place."""
    for name, kind in _CONDITIONS.items():
        if isinstance(value, kind):
            return f"pass Conditions({name}=...)"
    return ""
