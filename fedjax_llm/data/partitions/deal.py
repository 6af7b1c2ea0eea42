"""Ways to deal a pool of examples (or pairs, or questions) out to clients: each once, by a seed.

Every client's examples come in an order drawn at random, so that its last share is like the rest.
All raise `ValueError` for more clients than examples, and for a client that is left empty, by its
name.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..readers.examples import Records


def by_key(examples: Sequence[Any], key: Callable[[Any], str]) -> Records:
    """A client for each key, such as `lambda example: example.label`; in the order given."""
    found: dict[str, list[Any]] = {}
    for example in examples:
        found.setdefault(key(example), []).append(example)
    return dict(sorted(found.items()))


def iid(examples: Sequence[Any], *, clients: int, seed: int) -> Records:
    """A random part of the pool for each client, of sizes that differ by one at most."""
    random = _random("iid", examples, clients, seed)
    order = random.permutation(len(examples))
    return _deal("iid", examples, np.array_split(order, clients), random)


def dirichlet(examples: Sequence[Any], *, clients: int, alpha: float, seed: int) -> Records:
    """Each label's examples in shares drawn from a symmetric Dirichlet distribution over clients
    (Yurochkin et al. 2019, arXiv:1905.12022, section 4).

    The smaller `alpha`, the fewer labels a client has and the more sizes differ; a large one is
    near `iid`. Where other code draws until no client is empty, this says who is.
    Raises `ValueError` unless alpha is above 0 and there are two labels.
    """
    if not alpha > 0:
        raise ValueError(f"dirichlet: alpha must be above 0, got {alpha!r}.")
    random = _random("dirichlet", examples, clients, seed)
    own: list[list[Int[np.ndarray, " _"]]] = [[] for _ in range(clients)]
    for members in _by_label("dirichlet", examples):
        shares = random.dirichlet(np.full(clients, alpha))
        parts = np.split(random.permutation(members), _bounds(shares, len(members)))
        for client, part in enumerate(parts):
            own[client].append(part)
    remedy = "; expected a larger alpha, fewer clients or another seed"
    return _deal("dirichlet", examples, [np.concatenate(parts) for parts in own], random, remedy)


def label_shards(examples: Sequence[Any], *, clients: int, shards: int = 2, seed: int) -> Records:
    """So many shards for each client, of the pool sorted by label and cut into equal ones
    (McMahan et al. 2017, arXiv:1602.05629, section 3).

    Most clients have at most as many labels as shards; a shard where labels meet has more.
    Raises `ValueError` unless there are two labels and an example for each shard.
    """
    if shards < 1 or clients * shards > len(examples):
        raise ValueError(
            f"label_shards: expected 1 to {len(examples) // max(clients, 1)} shards for each of "
            f"{clients} clients, as there are {len(examples)} examples, got {shards}."
        )
    random = _random("label_shards", examples, clients, seed)
    ordered = [random.permutation(own) for own in _by_label("label_shards", examples)]
    pieces = np.array_split(np.concatenate(ordered), clients * shards)
    dealt = random.permutation(len(pieces)).reshape(clients, shards)
    own = [np.concatenate([pieces[piece] for piece in row]) for row in dealt]
    return _deal("label_shards", examples, own, random)


def log_normal(examples: Sequence[Any], *, clients: int, sigma: float, seed: int) -> Records:
    """A random part of the pool for each client, of sizes proportional to exp(sigma z), z normal.

    Raises `ValueError` unless sigma is at least 0.
    """
    if not 0 <= sigma < np.inf:
        raise ValueError(f"log_normal: sigma must be at least 0, got {sigma!r}.")
    random = _random("log_normal", examples, clients, seed)
    logs = sigma * random.standard_normal(clients)
    return _by_size("log_normal", examples, np.exp(logs - logs.max()), random)


def power_law(examples: Sequence[Any], *, clients: int, exponent: float, seed: int) -> Records:
    """A random part of the pool for each client, of sizes proportional to rank^-exponent; the
    first client has the most.

    Raises `ValueError` unless the exponent is at least 0.
    """
    if not 0 <= exponent < np.inf:
        raise ValueError(f"power_law: exponent must be at least 0, got {exponent!r}.")
    random = _random("power_law", examples, clients, seed)
    sizes = np.arange(1, clients + 1) ** -float(exponent)
    return _by_size("power_law", examples, sizes, random)


def _random(name: str, examples: Sequence[Any], clients: int, seed: int) -> np.random.Generator:
    if not 1 <= clients <= len(examples):
        raise ValueError(
            f"{name}: clients: expected 1 to {len(examples)}, the examples there are, got "
            f"{clients!r}."
        )
    return np.random.Generator(np.random.Philox(seed))


def _by_label(name: str, examples: Sequence[Any]) -> list[Int[np.ndarray, " _"]]:
    """Positions of each label's examples, labels sorted."""
    labels, code = np.unique([example.label for example in examples], return_inverse=True)
    if len(labels) < 2:
        raise ValueError(f"{name}: expected at least two labels, got only {str(labels[0])!r}.")
    return [np.flatnonzero(code == label) for label in range(len(labels))]


def _by_size(
    name: str,
    examples: Sequence[Any],
    sizes: Float[np.ndarray, " clients"],
    random: np.random.Generator,
) -> Records:
    order = random.permutation(len(examples))
    parts = np.split(order, _bounds(sizes / sizes.sum(), len(order)))
    return _deal(name, examples, parts, random, "; expected sizes less uneven or fewer clients")


def _bounds(
    shares: Float[np.ndarray, " clients"], count: int
) -> Int[np.ndarray, " clients_less_one"]:
    """Where to cut `count` examples: each part is within one of its share."""
    return np.rint(np.cumsum(shares)[:-1] * count).astype(np.int64)


def _deal(
    name: str,
    examples: Sequence[Any],
    own: Sequence[Int[np.ndarray, " _"]],
    random: np.random.Generator,
    remedy: str = "",
) -> Records:
    width = len(str(len(own) - 1))
    dealt = {}
    for number, part in enumerate(own):
        client = f"client {number:0{width}}"
        if not len(part):
            raise ValueError(f"{name}: {client!r} has no example{remedy}.")
        dealt[client] = [examples[i] for i in random.permutation(part)]
    return dealt
