"""How many neighbours a client needs, and how many of them must answer (Bell et al. 2020)."""

import math
from fractions import Fraction
from typing import NamedTuple

from fedjax_compression.checks import check_integer, check_number
from fedjax_compression.errors import message


class Degree(NamedTuple):
    """What `choose_degree` found.

    Attributes:
        degree: Neighbours of each client.
        threshold: Neighbours that must answer.

    """

    degree: int
    threshold: int


def choose_degree(
    clients: int,
    *,
    corrupt: float | int,
    dropout: float | int,
    security: float | int = 40,
    failure: float | int = 20,
) -> Degree:
    """Find the smallest degree of the random graph that hides clients and lets rounds end.

    The server follows the protocol, and reads what ceil(corrupt * clients) of the clients know;
    floor(dropout * clients) drop out. Neither depends on the order that is drawn. Three bounds,
    each computed in exact integers:

    - *No client is exposed*: with probability 2^-security at most, an honest client has `threshold`
      corrupt neighbours, who know its secrets. A hypergeometric tail, times the honest clients.
    - *No group is exposed*: with probability 2^-security at most, the graph of honest clients that
      survive falls apart, so that the server learns the sums of its parts. On a circle with links
      over degree / 2 places that needs two gaps of as many clients that are corrupt or dropped out;
      the bound is the expected number of such pairs of gaps.
    - *The round ends*: with probability 2^-failure at most, a client has fewer than `threshold`
      neighbours left. A hypergeometric tail, times the clients.

    Departure from the paper: the exact tails and the pairs of gaps replace its Chernoff bounds. A
    server that lies needs more, and a protocol that this package does not have.

    Args:
        clients: Clients of a round, at least 3.
        corrupt: Fraction of the clients that tell the server all they know, from 0 to below 1.
        dropout: Fraction of the clients that may drop out, from 0 to below 1.
        security: Minus log2 of the probability of each exposure. Default: 40.
        failure: Minus log2 of the probability that a round fails. Default: 20.

    Returns:
        The `Degree`; `clients - 1` for a graph of all pairs, where no smaller one is enough.

    Raises:
        ValueError: For an argument out of range, and where no graph is enough.

    Example:
        >>> from fedjax_llm.secure_aggregation import choose_degree
        >>> choose_degree(1000, corrupt=0.05, dropout=0.05)
        Degree(degree=30, threshold=17)

    """
    who = "choose_degree"
    check_integer(clients, who=who, name="clients", at_least=3, at_most=2**20)
    check_number(corrupt, who=who, name="corrupt", at_least=0, below=1)
    check_number(dropout, who=who, name="dropout", at_least=0, below=1)
    check_number(security, who=who, name="security", above=0, at_most=256)
    check_number(failure, who=who, name="failure", above=0, at_most=256)
    bad, gone = math.ceil(corrupt * clients), math.floor(dropout * clients)
    secure, fails = 2 ** math.ceil(security), 2 ** math.ceil(failure)
    if clients - bad - gone >= 2:  # else a sum of one
        for degree in [*range(2, clients - 1, 2), clients - 1]:
            if degree < clients - 1 and expected_pairs(clients, bad + gone, degree) > Fraction(
                1, secure
            ):
                continue
            threshold = _threshold(clients, bad, degree, secure)
            if threshold <= degree and _ends(clients, gone, degree, threshold, fails):
                return Degree(degree, threshold)
    expected = f"fewer with {clients} clients and security={security}, failure={failure}"
    raise ValueError(message(who, "corrupt and dropout", expected, (corrupt, dropout)))


def _threshold(clients: int, bad: int, degree: int, secure: int) -> int:
    """The smallest threshold, at least 2, that is rarely reached by corrupt neighbours."""
    limit = math.comb(clients - 1, degree)
    tail, threshold = 0, degree + 1
    while threshold > 2:
        tail += _ways(clients - 1, bad, degree, threshold - 1)
        if (clients - bad) * tail * secure > limit:
            break
        threshold -= 1
    return threshold


def _ends(clients: int, gone: int, degree: int, threshold: int, fails: int) -> bool:
    """Whether fewer than `threshold` neighbours of any client are left rarely enough."""
    more = range(degree - threshold + 1, degree + 1)
    tail = sum(_ways(clients - 1, gone, degree, i) for i in more)
    return clients * tail * fails <= math.comb(clients - 1, degree)


def _ways(others: int, marked: int, degree: int, among: int) -> int:
    """Neighbourhoods with `among` marked clients, of all `comb(others, degree)`."""
    return math.comb(marked, among) * math.comb(others - marked, degree - among)


def expected_pairs(clients: int, lost: int, degree: int) -> Fraction:
    """Expected pairs of gaps of degree / 2 places or more in a circle without `lost` clients.

    Between the `left` clients there are `left` gaps, whose lengths are uniform among those that sum
    to `lost`.
    """
    left, both = clients - lost, degree // 2 * 2
    if lost < both:
        return Fraction(0)
    ways = math.comb(lost - both + left - 1, left - 1)
    return Fraction(math.comb(left, 2) * ways, math.comb(lost + left - 1, left - 1))
