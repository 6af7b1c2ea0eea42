"""Partitions: deal a pool of examples, pairs or questions out to clients, each once.

A client's examples come in random order, so that its last pieces, which `hold_out` takes, are like
the others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fedjax_compression.checks import check_function, check_kind
from jaxtyping import Float, Int

from ...checks import check_count, check_real
from ..checks import check_pool
from ..readers.examples import Records
from ..readers.values import check_one_kind, client_name


def by_key(examples: Sequence[Any], key: Callable[[Any], Any]) -> Records:
    """Group a pool by a key: one client for each value.

    Args:
        examples: The pool: a list of examples, pairs or questions.
        key: `(example) -> client`, such as `lambda example: example.label`: a text or a whole
            number, which becomes text.

    Returns:
        The examples of each client in the order of the pool, clients sorted by name.

    Raises:
        TypeError: For `examples` that is not a list, and for a `key` that is not a function.
        ValueError: For a client that is neither text nor a whole number, and for one that is a
            number and the same digits as text.

    Example:
        >>> from fedjax_llm.data import Example, by_key
        >>> pool = [Example("x", label="b"), Example("y", label="a"), Example("z", label="b")]
        >>> clients = by_key(pool, lambda example: example.label)
        >>> {client: [example.text for example in each] for client, each in clients.items()}
        {'a': ['y'], 'b': ['x', 'z']}

    """
    check_pool(examples, who="by_key")
    check_function(key, who="by_key", name="key", signature="(example) -> client")
    by_client: dict[str, list[Any]] = {}
    kinds: dict[str, type] = {}
    for number, example in enumerate(examples, start=1):
        value, where = key(example), f"by_key: example {number}"
        client = client_name({"key": value}, "key", where)
        check_one_kind(kinds, client, value, where)
        by_client.setdefault(client, []).append(example)
    return dict(sorted(by_client.items()))


def iid(examples: Sequence[Any], *, clients: int, seed: int) -> Records:
    """Deal a pool out at random, to clients whose sizes differ by at most one.

    Args:
        examples: The pool: a list of examples, pairs or questions.
        clients: Number of clients.
        seed: Seed of the draw, at least 0.

    Returns:
        The examples of each client, in random order; clients are named "client 0", "client 1", and
        so on, with as many digits as the last needs.

    Raises:
        TypeError: For `examples` that is not a list.
        ValueError: Unless `clients` is from 1 to the number of examples, and for a negative seed.

    Example:
        >>> from fedjax_llm.data import Example, iid
        >>> pool = [Example(str(i), label="ab"[i % 2]) for i in range(10)]
        >>> [len(each) for each in iid(pool, clients=3, seed=0).values()]
        [4, 3, 3]

    """
    random = _random("iid", examples, clients, seed)
    order = random.permutation(len(examples))
    return _deal("iid", examples, np.array_split(order, clients), random)


def dirichlet(examples: Sequence[Any], *, clients: int, alpha: float, seed: int) -> Records:
    """Deal each label's examples out in shares drawn from a symmetric Dirichlet distribution
    (Yurochkin et al. 2019, arXiv:1905.12022, section 4).

    The smaller `alpha`, the fewer labels a client has and the more the sizes differ; a large
    `alpha` is close to `iid`. A client without examples is an error: the shares are drawn once, not
    until every client has some.

    Args:
        examples: The pool: a list of examples, pairs or questions with labels.
        clients: Number of clients.
        alpha: Concentration of the distribution over clients, above 0.
        seed: Seed of the draw, at least 0.

    Returns:
        The examples of each client, in random order; clients are named "client 0", "client 1", and
        so on, with as many digits as the last needs.

    Raises:
        TypeError: For `examples` that is not a list.
        ValueError: For an `alpha` that is not above 0, fewer than two labels, a client without
            examples, more clients than examples, and a negative seed.

    Example:
        >>> from fedjax_llm.data import Example, dirichlet
        >>> pool = [Example(str(i), label="ab"[i % 2]) for i in range(200)]
        >>> clients = dirichlet(pool, clients=4, alpha=1.0, seed=0)
        >>> list(clients), sum(map(len, clients.values()))
        (['client 0', 'client 1', 'client 2', 'client 3'], 200)

    """
    check_real(alpha, who="dirichlet", name="alpha", above=0)
    random = _random("dirichlet", examples, clients, seed)
    by_client: list[list[Int[np.ndarray, " _"]]] = [[] for _ in range(clients)]
    for members in _by_label("dirichlet", examples):
        shares = random.dirichlet(np.full(clients, alpha))
        parts = np.split(random.permutation(members), _bounds(shares, len(members)))
        for client, part in enumerate(parts):
            by_client[client].append(part)
    positions = [np.concatenate(parts) for parts in by_client]
    remedy = "use a larger alpha, fewer clients or another seed"
    return _deal("dirichlet", examples, positions, random, remedy)


def label_shards(examples: Sequence[Any], *, clients: int, shards: int = 2, seed: int) -> Records:
    """Sort a pool by label, cut it into equal shards, and deal each client the same number of them
    (McMahan et al. 2017, arXiv:1602.05629, section 3).

    Most clients have at most as many labels as shards; a shard across the border of two labels
    contains both.

    Args:
        examples: The pool: a list of examples, pairs or questions with labels.
        clients: Number of clients.
        shards: Shards per client, at least 1. Default 2.
        seed: Seed of the draw, at least 0.

    Returns:
        The examples of each client, in random order; clients are named "client 0", "client 1", and
        so on, with as many digits as the last needs.

    Raises:
        TypeError: For `examples` that is not a list.
        ValueError: For fewer than two labels, fewer examples than shards in all, and a negative
            seed.

    Example:
        >>> from fedjax_llm.data import Example, label_shards
        >>> pool = [Example(str(i), label="ab"[i % 2]) for i in range(8)]
        >>> clients = label_shards(pool, clients=4, shards=1, seed=0)
        >>> [len({example.label for example in each}) for each in clients.values()]
        [1, 1, 1, 1]

    """
    random = _random("label_shards", examples, clients, seed)
    check_count(shards, who="label_shards", name="shards")
    if clients * shards > len(examples):
        raise ValueError(
            f"label_shards: shards: expected 1 to {len(examples) // clients} shards for each of "
            f"{clients} clients, as there are {len(examples)} examples, got {shards}."
        )
    ordered = [random.permutation(members) for members in _by_label("label_shards", examples)]
    pieces = np.array_split(np.concatenate(ordered), clients * shards)
    dealt = random.permutation(len(pieces)).reshape(clients, shards)
    positions = [np.concatenate([pieces[piece] for piece in row]) for row in dealt]
    return _deal("label_shards", examples, positions, random)


def log_normal(examples: Sequence[Any], *, clients: int, sigma: float, seed: int) -> Records:
    """Deal a pool out at random, to clients of log-normal sizes.

    Sizes are proportional to exp(sigma z), where z is drawn from the standard normal distribution
    for each client.

    Args:
        examples: The pool: a list of examples, pairs or questions.
        clients: Number of clients.
        sigma: Standard deviation of the logarithm of the sizes, at least 0.
        seed: Seed of the draw, at least 0.

    Returns:
        The examples of each client, in random order; clients are named "client 0", "client 1", and
        so on, with as many digits as the last needs.

    Raises:
        TypeError: For `examples` that is not a list.
        ValueError: For a negative `sigma`, a client without examples, more clients than examples,
            and a negative seed.

    Example:
        >>> from fedjax_llm.data import Example, log_normal
        >>> pool = [Example(str(i), label="ab"[i % 2]) for i in range(100)]
        >>> [len(each) for each in log_normal(pool, clients=4, sigma=0.0, seed=0).values()]
        [25, 25, 25, 25]

    """
    check_real(sigma, who="log_normal", name="sigma", at_least=0)
    random = _random("log_normal", examples, clients, seed)
    logs = sigma * random.standard_normal(clients)
    return _by_size("log_normal", examples, np.exp(logs - logs.max()), random)


def power_law(examples: Sequence[Any], *, clients: int, exponent: float, seed: int) -> Records:
    """Deal a pool out at random, to clients whose sizes follow a power law.

    Client i, counted from 1, gets a share proportional to i^-exponent, so the first client has the
    most.

    Args:
        examples: The pool: a list of examples, pairs or questions.
        clients: Number of clients.
        exponent: Exponent of the power law, at least 0; 0 gives equal sizes.
        seed: Seed of the draw, at least 0.

    Returns:
        The examples of each client, in random order; clients are named "client 0", "client 1", and
        so on, with as many digits as the last needs.

    Raises:
        TypeError: For `examples` that is not a list.
        ValueError: For a negative `exponent`, a client without examples, more clients than
            examples, and a negative seed.

    Example:
        >>> from fedjax_llm.data import Example, power_law
        >>> pool = [Example(str(i), label="ab"[i % 2]) for i in range(100)]
        >>> [len(each) for each in power_law(pool, clients=4, exponent=1.0, seed=0).values()]
        [48, 24, 16, 12]

    """
    check_real(exponent, who="power_law", name="exponent", at_least=0)
    random = _random("power_law", examples, clients, seed)
    sizes = np.arange(1, clients + 1) ** -float(exponent)
    return _by_size("power_law", examples, sizes, random)


def _random(name: str, examples: Sequence[Any], clients: int, seed: int) -> np.random.Generator:
    check_pool(examples, who=name)
    check_count(seed, who=name, name="seed", at_least=0)
    check_count(clients, who=name, name="clients")
    if clients > len(examples):
        raise ValueError(
            f"{name}: clients: expected 1 to {len(examples)}, the number of examples, got "
            f"{clients!r}."
        )
    return np.random.Generator(np.random.Philox(seed))


def _by_label(name: str, examples: Sequence[Any]) -> list[Int[np.ndarray, " _"]]:
    """The positions of each label's examples, labels sorted."""
    for number, example in enumerate(examples, start=1):
        if not isinstance(getattr(example, "label", None), str):
            place = f"examples: example {number}"
            check_kind(example, (), who=name, name=place, expected="a record with a label")
    labels, code = np.unique([example.label for example in examples], return_inverse=True)
    if len(labels) < 2:
        raise ValueError(
            f"{name}: examples: expected at least two labels, got only {str(labels[0])!r}."
        )
    return [np.flatnonzero(code == label) for label in range(len(labels))]


def _by_size(
    name: str,
    examples: Sequence[Any],
    sizes: Float[np.ndarray, " clients"],
    random: np.random.Generator,
) -> Records:
    order = random.permutation(len(examples))
    parts = np.split(order, _bounds(sizes / sizes.sum(), len(order)))
    return _deal(name, examples, parts, random, "use less uneven sizes or fewer clients")


def _bounds(
    shares: Float[np.ndarray, " clients"], count: int
) -> Int[np.ndarray, " clients_less_one"]:
    """Where to cut `count` examples so that each part differs from its share by at most one."""
    return np.rint(np.cumsum(shares)[:-1] * count).astype(np.int64)


def _deal(
    name: str,
    examples: Sequence[Any],
    positions: Sequence[Int[np.ndarray, " _"]],
    random: np.random.Generator,
    remedy: str = "use fewer clients",
) -> Records:
    """Give each client the examples at its positions, in random order."""
    width = len(str(len(positions) - 1))
    dealt = {}
    for number, part in enumerate(positions):
        client = f"client {number:0{width}}"
        if not len(part):
            raise ValueError(
                f"{name}: client {client!r}: expected at least one example, got none; {remedy}."
            )
        dealt[client] = [examples[i] for i in random.permutation(part)]
    return dealt
