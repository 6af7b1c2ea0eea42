"""Checks of the arguments of `simulate` and its siblings, made when they are called."""

from collections.abc import Mapping
from typing import Any

from fedjax_compression.checks import check_kind
from fedjax_compression.errors import message

from ...algorithm import FederatedAlgorithm, SplitMethod
from ...attacks.contract import Attack
from ...checks import check_count
from ...data import Batching, ClientData, HoldOut
from ...privacy import Poisson, Secret, Separated
from ..client_axes.auto import Auto
from ..client_axes.contract import ClientAxis
from ..conditions.availability import Availability
from ..conditions.contract import Conditions
from ..conditions.deadline import Deadline
from ..conditions.faults import Faults
from ..conditions.network import Network
from ..conditions.sampling import Sampler
from .client_store import ClientStore
from .compiled_rounds import CompiledRounds
from .round import Round, Snapshot

_CONDITIONS: Mapping[str, type] = {
    "faults": Faults,
    "network": Network,
    "deadline": Deadline,
    "availability": Availability,
    "attack": Attack,
    "sampler": Sampler,
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
    """Raise `ValueError` where an algorithm with `every_round` would miss a client's message.

    The same for one with `every_message` where a client would miss a message of the server. A late
    client has received it.
    """
    if not (refused := refused_conditions(algorithm)):
        return
    why = "as the algorithm needs every client in every round"
    if not algorithm.every_round:
        why += ": one that misses a message of the server cannot read the next"
    if clients < population:
        raise ValueError(message(who, "clients", f"{population}, {why}", clients))
    for name in refused:
        if (condition := getattr(conditions, name)) is not None:
            raise ValueError(message(who, f"conditions.{name}", f"None, {why}", condition))


def refused_conditions(algorithm: FederatedAlgorithm) -> tuple[str, ...]:
    """The fields of `Conditions` under which an algorithm cannot run: none if it may miss clients.

    Where there are any, every client must be in every cohort.
    """
    if algorithm.every_round:
        return ("faults", "deadline", "sampler")
    return ("faults", "sampler") if algorithm.every_message else ()


def check_private(
    algorithm: FederatedAlgorithm,
    conditions: Conditions,
    secret: Any,
    *,
    batching: Batching,
    rounds: int,
    clients: int,
    population: int,
    who: str,
) -> None:
    """Raise unless the noise of an algorithm can come from a secret and bounds what a client moves.

    Raises `TypeError` for a secret of another kind, `ValueError` for one that is missing or unused,
    for rows drawn at a rate in epochs, for more rounds or closer ones of a client than correlated
    noise is for, and for conditions under which one client changes what others send.
    """
    remedy = "Secret(secrets.token_bytes(32)) makes one"
    if secret is not None and not isinstance(secret, Secret):  # whose value is not shown
        kind = type(secret).__name__
        raise TypeError(f"{who}: secret: expected a Secret or None, got a {kind}; {remedy}.")
    if algorithm.mechanism is None:
        if secret is not None:
            expected = "None, as the algorithm adds no noise"
            raise ValueError(message(who, "secret", expected, secret))
        return
    if secret is None:
        expected = "a Secret, from which the algorithm's noise is drawn"
        raise ValueError(message(who, "secret", expected, None, remedy))
    mechanism = algorithm.mechanism
    if mechanism.rate is not None and batching.steps is None:
        expected = "steps, as rows drawn at a rate make no epochs"
        raise ValueError(message(who, "batching", expected, batching))
    if mechanism.rounds is not None:
        if rounds > mechanism.rounds:
            expected = f"at most {mechanism.rounds}, for which the algorithm's noise is made"
            raise ValueError(message(who, "rounds", expected, rounds))
        drawn = conditions.sampler and conditions.sampler.participation(clients, population)
        apart = drawn.rounds if isinstance(drawn, Separated) else 1
        if apart < mechanism.separation:
            expected = f"cyclic(min_separation={mechanism.separation}) or more, as the algorithm's "
            expected += "noise hides a client whose rounds are so far apart"
            raise ValueError(message(who, "conditions.sampler", expected, conditions.sampler))
    at_server = not mechanism.at_clients
    if conditions.sampler is not None and at_server and mechanism.divisor is None:
        drawn = conditions.sampler.participation(clients, population)
        if isinstance(drawn, Poisson):
            mean = drawn.rate * population
            expected = f"a rule with a divisor, such as {mean:g}, the clients that a round expects"
            raise ValueError(message(who, "algorithm", expected, "one without"))
    why = "None with noise for privacy, as who counts may not depend on others' data"
    if conditions.deadline is not None:
        raise ValueError(message(who, "conditions.deadline", why, conditions.deadline))
    if conditions.attack is not None and conditions.attack.craft is not None:
        why = "an attack that reads no other client's update, as the noise hides them"
        raise ValueError(message(who, "conditions.attack", why, "an omniscient one"))


def check_without_noise(algorithm: FederatedAlgorithm, *, who: str) -> None:
    """Raise `ValueError` for an algorithm with noise, in a loop that has no secret for it."""
    if algorithm.mechanism is not None:
        expected = "one without noise, which only simulate draws from a secret"
        raise ValueError(message(who, "algorithm", expected, "one with a mechanism"))


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

    Raises `ValueError` for a deadline or an availability without a network, and for what a sampler
    cannot be combined with.
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
    if value.sampler is None:
        return
    for name in ("deadline", "availability"):
        if (condition := getattr(value, name)) is not None:
            expected = "None with a sampler, which alone says who is drawn"
            raise ValueError(message(who, f"conditions.{name}", expected, condition))
    if value.attack is not None and value.attack.craft is not None:
        expected = "an attack that reads no other client's update, with a sampler"
        raise ValueError(message(who, "conditions.attack", expected, "an omniscient one"))


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
