"""Epsilon of the rounds of a private run, by the dp-accounting package."""

import math
from collections.abc import Callable
from typing import Any

from fedjax_compression.checks import check_choice, check_integer, check_kind, check_number
from fedjax_compression.errors import message

from .participation import RELATIONS, Participation, Poisson, Separated, WithoutReplacement

_RELATIONS = {
    Separated: ("zero_out", "replace_one"),
    Poisson: ("add_or_remove", "zero_out", "replace_one"),
    WithoutReplacement: ("replace_one",),
}
"""Relations under which each kind of participation has an analysis, the default first.

Adding a client to a schedule or to a draw of one size moves all others, so that only zeroing out or
replacing has a meaning there.
"""
_ACCOUNTANTS = {
    Separated: ("gaussian", "pld", "rdp"),
    Poisson: ("pld", "rdp"),
    WithoutReplacement: ("rdp",),
}
"""Accountants that know each kind of participation, the tightest first."""


class Account:
    """Epsilon after any number of rounds of the Gaussian mechanism, for one client.

    One round adds noise with standard deviation `noise_multiplier` times what a client that is
    added, removed or zeroed out moves the sum by (the clip bound). A client that is replaced moves
    it by twice that: the noise multiplier is halved here, once, under every accountant.

    - `Separated`: a client is in at most ceil(rounds / separation) rounds, each with the Gaussian
      mechanism; its noise multiplier over k rounds is that of one, over sqrt(k). No amplification,
      as the draw is not secret. Exact ("gaussian": Balle and Wang 2018, arXiv:1805.06530).
    - `Poisson`: amplified by sampling; valid only if nobody learns who was drawn. With a cap below
      the population, the truncated mechanism of arXiv:2508.15089 under "pld", none under "rdp".
    - `WithoutReplacement`: amplified by sampling under "rdp", for replacement alone.

    Cost: some 0.5 s for the first epsilon of `Poisson`, 4 s with a cap, then 0.1 to 1 s for each;
    nothing for `Separated` with "gaussian".

    Args:
        noise_multiplier: z, above 0.
        participation: Who takes part in which round. Default: `Separated(1)`, everyone in all.
        delta: Probability with which epsilon may not hold, above 0 and below 1. It should be well
            below 1 / clients: with delta = 1 / clients, publishing a random client's data is
            private.
        relation: What neighbours differ in: "add_or_remove", "zero_out" or "replace_one". Default:
            the first of these that the participation has an analysis for.
        accountant: "gaussian", "pld" or "rdp". Default: the tightest that knows the participation.

    Raises:
        ModuleNotFoundError: Without the package dp-accounting.
        TypeError: For a participation of another kind.
        ValueError: For a number out of range, and for a relation or an accountant that has no
            analysis for the participation.

    Example:
        >>> from fedjax_llm.privacy import Account, Separated
        >>> account = Account(1.0, Separated(10), delta=1e-5)
        >>> round(account.epsilon(10), 4), round(account.epsilon(11), 4)  # once; twice
        (4.3772, 6.573)
        >>> account.relation, account.accountant
        ('zero_out', 'gaussian')

    """

    def __init__(
        self,
        noise_multiplier: float | int,
        participation: Participation = Separated(),
        *,
        delta: float,
        relation: str | None = None,
        accountant: str | None = None,
    ) -> None:
        who = "Account"
        check_number(noise_multiplier, who=who, name="noise_multiplier", above=0)
        check_number(delta, who=who, name="delta", above=0, below=1)
        _check_participation(participation, who=who)
        kind = type(participation)
        relation = _RELATIONS[kind][0] if relation is None else relation
        accountant = _ACCOUNTANTS[kind][0] if accountant is None else accountant
        check_choice(relation, RELATIONS, who=who, name="relation")
        check_choice(accountant, ("gaussian", "pld", "rdp"), who=who, name="accountant")
        for name, got, known in (
            ("relation", relation, _RELATIONS[kind]),
            ("accountant", accountant, _ACCOUNTANTS[kind]),
        ):
            if got not in known:
                expected = f"{' or '.join(known)} with {kind.__name__}, for which there is a proof"
                raise ValueError(message(who, name, expected, got))
        if isinstance(participation, Poisson) and accountant == "rdp":
            if relation == "replace_one":
                expected = "pld for Poisson and replace_one, which has no analysis by rdp"
                raise ValueError(message(who, "accountant", expected, accountant))
            if _is_cut(participation):
                expected = "pld, as draws above at_most are cut, or an at_most of all clients"
                raise ValueError(message(who, "accountant", expected, accountant))
        self.noise_multiplier = noise_multiplier
        self.participation = participation
        self.delta = delta
        self.relation = relation
        self.accountant = accountant
        self._after = _epsilon_by_rounds(self, dp_accounting())

    def epsilon(self, rounds: int) -> float:
        """Compute epsilon after a number of rounds.

        Args:
            rounds: Rounds whose results were released, at least 0.

        Returns:
            Epsilon at `delta`; 0 after no round.

        Raises:
            ValueError: For anything but an integer of at least 0.

        """
        check_integer(rounds, who="Account.epsilon", name="rounds", at_least=0)
        return float(self._after(rounds)) if rounds else 0.0


def calibrate_noise_multiplier(
    epsilon: float | int,
    rounds: int,
    participation: Participation = Separated(),
    *,
    delta: float,
    relation: str | None = None,
    accountant: str | None = None,
) -> float:
    """Find the smallest noise multiplier with which a run's epsilon is at most a target.

    By bisection, to a relative 1e-4 from above: the result meets the target.

    Args:
        epsilon: The target, above 0.
        rounds: Rounds of the run, at least 1.
        participation: As for `Account`.
        delta: As for `Account`.
        relation: As for `Account`.
        accountant: As for `Account`.

    Returns:
        The noise multiplier.

    Raises:
        ModuleNotFoundError: Without the package dp-accounting.
        ValueError: As `Account`, and for a target out of range or out of reach with a noise
            multiplier of 2^20.

    Example:
        >>> from fedjax_llm.privacy import calibrate_noise_multiplier
        >>> round(calibrate_noise_multiplier(1.0, 1, delta=1e-5), 3)
        3.731

    """
    who = "calibrate_noise_multiplier"
    check_number(epsilon, who=who, name="epsilon", above=0)
    check_integer(rounds, who=who, name="rounds", at_least=1)

    def is_met(z: float) -> bool:
        account = Account(z, participation, delta=delta, relation=relation, accountant=accountant)
        return account.epsilon(rounds) <= epsilon

    high = 1.0
    while not is_met(high):
        high *= 2
        if high > 2**20:
            expected = f"a target within reach at delta={delta}"
            raise ValueError(message(who, "epsilon", expected, epsilon))
    low = high / 2
    while low > 2**-20 and is_met(low):
        high, low = low, low / 2
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_met(middle) else (middle, high)
    return high


def dp_accounting() -> Any:
    """Import dp-accounting; a `ModuleNotFoundError` says how to install it."""
    try:
        import dp_accounting as package  # noqa: PLC0415 (optional, and takes two seconds)
    except ModuleNotFoundError as error:
        if error.name != "dp_accounting":
            raise
        raise ModuleNotFoundError(
            "privacy: expected the package dp-accounting, which computes epsilon, got none; "
            "pip install 'fedjax-llm[privacy]'.",
            name="dp_accounting",
        ) from None
    return package


def _epsilon_by_rounds(account: Account, dp: Any) -> Callable[[int], float]:
    """`(rounds) -> epsilon`, with what is common to all rounds computed once."""
    who, delta = account.participation, account.delta
    moved = 2 if account.relation == "replace_one" else 1  # in units of the clip bound
    z = account.noise_multiplier / moved
    if isinstance(who, Separated):

        def composed(rounds: int) -> float:
            return z / math.sqrt(math.ceil(rounds / who.rounds))

        if account.accountant == "gaussian":
            return lambda rounds: dp.get_epsilon_gaussian(composed(rounds), delta)
        # add_or_remove: the sensitivity is in z already, and PLD would double it for REPLACE_ONE
        fresh = dp.pld.PLDAccountant if account.accountant == "pld" else dp.rdp.RdpAccountant
        return lambda rounds: (
            fresh().compose(dp.GaussianDpEvent(composed(rounds))).get_epsilon(delta)
        )
    relations = dp.NeighboringRelation
    if isinstance(who, WithoutReplacement):
        event = dp.SampledWithoutReplacementDpEvent(
            who.population, who.clients, dp.GaussianDpEvent(z)
        )
        return lambda rounds: (
            dp.rdp.RdpAccountant(neighboring_relation=relations.REPLACE_ONE)
            .compose(event, rounds)
            .get_epsilon(delta)
        )
    relation = {
        "add_or_remove": relations.ADD_OR_REMOVE_ONE,
        "zero_out": relations.REPLACE_SPECIAL,
        "replace_one": relations.REPLACE_ONE,
    }[account.relation]
    if account.accountant == "rdp":
        event = dp.PoissonSampledDpEvent(who.rate, dp.GaussianDpEvent(z))
        return lambda rounds: (
            dp.rdp.RdpAccountant(neighboring_relation=relation)
            .compose(event, rounds)
            .get_epsilon(delta)
        )
    step = _poisson_step(who, account.noise_multiplier, relation)
    return lambda rounds: step.self_compose(rounds).get_epsilon_for_delta(delta)


def _poisson_step(who: Poisson, noise_multiplier: float | int, relation: Any) -> Any:
    """The privacy loss distribution of a round; it doubles what a replaced client moves itself."""
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415 (as above)

    if _is_cut(who):
        return pld.from_truncated_subsampled_gaussian_mechanism(
            dataset_size=who.population,
            sampling_probability=who.rate,
            truncated_batch_size=who.at_most,
            noise_multiplier=noise_multiplier,
            neighboring_relation=relation,
        )
    return pld.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=who.rate, neighboring_relation=relation
    )


def _is_cut(who: Poisson) -> bool:
    """Whether a draw can be larger than a round."""
    return who.at_most < who.population


def _check_participation(value: Any, *, who: str) -> None:
    """Raise unless a value is a `Participation` with numbers in range."""
    expected, name = "Separated, Poisson or WithoutReplacement", "participation"
    check_kind(value, tuple(_RELATIONS), who=who, name=name, expected=expected)
    if isinstance(value, Separated):
        check_integer(value.rounds, who=who, name=f"{name}.rounds", at_least=1)
        return
    check_integer(value.population, who=who, name=f"{name}.population", at_least=1)
    if isinstance(value, Poisson):
        check_number(value.rate, who=who, name=f"{name}.rate", above=0, at_most=1)
        check_integer(value.at_most, who=who, name=f"{name}.at_most", at_least=1)
    else:
        most = value.population
        check_integer(value.clients, who=who, name=f"{name}.clients", at_least=1, at_most=most)
