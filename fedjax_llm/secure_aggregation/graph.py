"""Who shares masks with whom: everyone, or a regular graph on a random order."""

from .shamir import RandomBytes


def neighbors(clients: list[int], degree: int, *, random: RandomBytes) -> dict[int, list[int]]:
    """Draw the neighbours of each client: those within degree / 2 places on a random circle.

    That is a Harary graph, in which no fewer than `degree` clients separate any others. With at
    most `degree` others, everyone is everyone's neighbour.

    Args:
        clients: The clients' numbers, distinct.
        degree: Neighbours of each: an even number, unless there are at most that many others.
        random: Source of random bytes.

    Returns:
        The neighbours of each client, in increasing order.

    """
    count = len(clients)
    if count - 1 <= degree:
        return {u: sorted(v for v in clients if v != u) for u in clients}
    tags = {u: random(16) for u in clients}
    order = sorted(clients, key=lambda u: tags[u])  # uniform: no two tags agree, but once in 2^88
    half = degree // 2
    steps = [*range(-half, 0), *range(1, half + 1)]
    return {u: sorted(order[(i + j) % count] for j in steps) for i, u in enumerate(order)}
