"""Clients set aside to tune on, and the others, on which results are reported."""

import numpy as np

from ...checks import check_count, check_real
from ..readers.examples import Records
from ..unseen import floor_share


def tuning_clients(examples: Records, *, share: float | int = 0.2, seed: int = 0) -> Records:
    """Keep a share of the clients, to tune on: those that `reported_clients` leaves out.

    Args:
        examples: Records by client.
        share: Share of the clients, above 0 and below 1; rounded down, but at least one.
        seed: Seed of the draw, at least 0.

    Returns:
        The records of the clients that are drawn.

    Raises:
        ValueError: For a share or a seed out of range, and for fewer than two clients.

    Example:
        >>> from fedjax_llm.data.partitions.aside import reported_clients, tuning_clients
        >>> texts = {name: [] for name in "abcde"}
        >>> ours, theirs = tuning_clients(texts, share=0.4), reported_clients(texts, share=0.4)
        >>> len(ours), sorted({*ours, *theirs})
        (2, ['a', 'b', 'c', 'd', 'e'])

    """
    aside = _aside("tuning_clients", examples, share, seed)
    return {name: each for name, each in examples.items() if name in aside}


def reported_clients(examples: Records, *, share: float | int = 0.2, seed: int = 0) -> Records:
    """Leave out the clients that `tuning_clients` keeps.

    Args:
        examples: Records by client.
        share: Share of the clients to leave out, above 0 and below 1; rounded down, but at least
            one.
        seed: Seed of the draw, at least 0.

    Returns:
        The records of the others.

    Raises:
        ValueError: For a share or a seed out of range, and for fewer than two clients.

    Example:
        >>> from fedjax_llm.data.partitions.aside import reported_clients
        >>> len(reported_clients({name: [] for name in "abcde"}, share=0.4))
        3

    """
    aside = _aside("reported_clients", examples, share, seed)
    return {name: each for name, each in examples.items() if name not in aside}


def _aside(who: str, examples: Records, share: float | int, seed: int) -> set[str]:
    check_count(seed, who=who, name="seed", at_least=0)
    check_real(share, who=who, name="share", above=0, below=1)
    names = sorted(examples)
    if len(names) < 2:
        raise ValueError(
            f"{who}: expected at least two clients, one to tune on and one to report, got "
            f"{len(names)}."
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(names))
    return {names[i] for i in order[: max(1, floor_share(len(names), share))]}
