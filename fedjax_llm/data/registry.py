"""Readers and partitions by name, for the `data` of a run."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from fedjax_compression.checks import check_function, check_new_name

from .partitions.aside import reported_clients, tuning_clients
from .partitions.deal import dirichlet, iid, label_shards, log_normal, power_law
from .readers.chitchat import chitchat
from .readers.examples import Example, Examples, Fields, Records, alpaca, pooled, sharegpt
from .readers.fedit import fedit, fedit_test
from .readers.files import csv, jsonl, parquet
from .readers.prompted import PairFields, alpaca_pairs, sharegpt_pairs
from .readers.shakespeare import shakespeare


def _shakespeare(*, at_least: int = 2000, roles: str = "") -> Examples:
    """The reader `shakespeare` with roles as one comma-separated text."""
    chosen = [role.strip() for role in roles.split(",") if role.strip()]
    texts = shakespeare(at_least=at_least, roles=chosen)
    return {role: [Example(text, source=role)] for role, text in texts.items()}


def _dealt(deal: Callable[..., Records]) -> Callable[..., Records]:
    """A partition that first pools the records of all clients."""

    @wraps(deal)
    def pool_and_deal(examples: Records, **arguments: Any) -> Records:
        return deal(pooled(examples), **arguments)

    return pool_and_deal


DATA: dict[str, Callable[..., Any]] = {
    "alpaca": alpaca,
    "alpaca_pairs": alpaca_pairs,
    "chitchat": chitchat,
    "csv": csv,
    "fedit": fedit,
    "fedit_test": fedit_test,
    "fields": Fields,
    "jsonl": jsonl,
    "pair_fields": PairFields,
    "parquet": parquet,
    "reported_clients": reported_clients,
    "shakespeare": _shakespeare,
    "sharegpt": sharegpt,
    "sharegpt_pairs": sharegpt_pairs,
    "tuning_clients": tuning_clients,
    **{
        deal.__name__: _dealt(deal)
        for deal in (dirichlet, iid, label_shards, log_normal, power_law)
    },
}
"""Factories that the `data` of a run may name.

The first argument of a partition is other data, such as `iid(chitchat(), clients=9, seed=0)`; so is
that of `tuning_clients` and `reported_clients`, which keep some of its clients.
"""


def register(name: str, factory: Callable[..., Records]) -> None:
    """Add a reader of your own, for the `data` of a run to name it.

    After `register("mine", factory)`, the data of a run may be `"mine(folder='notes')"`.
    Registering the same factory again under its name is a no-op.

    Args:
        name: An identifier that is not in use.
        factory: `(**arguments) -> {client: [Example, ...]}`.

    Raises:
        TypeError: For a factory that cannot be called.
        ValueError: For a name that is not an identifier, or that is in use.

    Example:
        >>> from fedjax_llm.data import Example
        >>> from fedjax_llm.data.registry import DATA, register
        >>> def greetings(*, word="hi"):
        ...     return {"ann": [Example(f"{word} bob")], "bob": [Example(f"{word} ann")]}
        >>> register("greetings", greetings)
        >>> DATA.pop("greetings")(word="hello")["ann"][0].text
        'hello bob'

    """
    signature = "(**arguments) -> records by client"
    check_function(factory, who="register", name="factory", signature=signature)
    check_new_name(name, factory, DATA)
    DATA[name] = factory
