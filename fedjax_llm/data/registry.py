"""Data by name."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from .partitions.deal import dirichlet, iid, label_shards, log_normal, power_law
from .readers.chitchat import chitchat
from .readers.examples import Example, Examples, Fields, Records, pooled
from .readers.files import fedit, jsonl, parquet
from .readers.prompted import PairFields
from .readers.shakespeare import shakespeare


def _shakespeare(*, at_least: int = 2000, roles: str = "") -> Examples:
    chosen = [role.strip() for role in roles.split(",") if role.strip()]
    texts = shakespeare(at_least=at_least, roles=chosen)
    return {role: [Example(text, source=role)] for role, text in texts.items()}


def _dealt(deal: Callable[..., Records]) -> Callable[..., Records]:
    """A partition of what clients have together."""

    @wraps(deal)
    def dealt(examples: Records, **choices: Any) -> Records:
        return deal(pooled(examples), **choices)

    return dealt


DATA: dict[str, Callable[..., Any]] = {
    "chitchat": chitchat,
    "fedit": fedit,
    "fields": Fields,
    "jsonl": jsonl,
    "pair_fields": PairFields,
    "parquet": parquet,
    "shakespeare": _shakespeare,
    **{
        deal.__name__: _dealt(deal)
        for deal in (dirichlet, iid, label_shards, log_normal, power_law)
    },
}
"""What `data` may name. A partition takes other data first: `iid(chitchat(), clients=9, seed=0)`.
"""


def register(name: str, factory: Callable[..., Records]) -> None:
    """Let a run's `data` name a reader of your own, such as `"mine(folder='notes')"`.

    Args:
        name: An identifier that no other reader has.
        factory: `(**arguments) -> {client: [Example, ...]}`.

    Raises:
        ValueError: For a name that is no identifier, or that is in use.
        TypeError: For a factory that cannot be called.

    """
    if not name.isidentifier():
        raise ValueError(f"register: name: expected an identifier, got {name!r}.")
    if not callable(factory):
        raise TypeError(f"register: factory: expected a function, got {factory!r}.")
    if DATA.get(name, factory) is not factory:
        raise ValueError(f"register: name: expected one that is not in use, got {name!r}.")
    DATA[name] = factory
