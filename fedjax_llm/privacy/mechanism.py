"""What a private method releases in each round, for those who account for it."""

import math
from typing import NamedTuple


class Skellam(NamedTuple):
    """What a sum of integers with Skellam noise releases of one client.

    Attributes:
        scale: Integer steps for each unit of an update.
        variance: Variance of the noise of each entry of the sum, in units of updates.
        l2: Largest Euclidean norm of a client's rounded update, in units of updates.
        l1: Largest sum of its magnitudes.

    """

    scale: float
    variance: float
    l2: float
    l1: float

    def divergence(self, order: int) -> float:
        """Renyi divergence of a round, for a client whose update is zeroed out.

        The bound of Agarwal, Kairouz and Liu (2021, arXiv:2110.04995) for integer orders.
        """
        s, mu = self.scale, self.variance
        second = ((2 * order - 1) * s * self.l2**2 + 6 * self.l1) / (4 * s**3 * mu**2)
        return order * self.l2**2 / (2 * mu) + min(second, 3 * self.l1 / (2 * s * mu))


class DiscreteGaussian(NamedTuple):
    """What a sum of integers with discrete Gaussian noise of each client releases of one client.

    A sum of discrete Gaussian variables is nearly one, and how nearly is in the bound.

    Attributes:
        scale: Integer steps for each unit of an update.
        variance: Variance of the noise of each entry of the sum, in units of updates: of as many
            clients as the epsilon counts on.
        l2: Largest Euclidean norm of a client's rounded update, in units of updates.
        l1: Largest sum of its magnitudes.
        entries: Entries of an update.
        deviation: Parameter sigma of each client's noise, in integer steps, at least 1/2.
        clients: Most clients of the sum.

    """

    scale: float
    variance: float
    l2: float
    l1: float
    entries: int
    deviation: float
    clients: int

    def divergence(self, order: int) -> float:
        """Renyi divergence of a round, for a client whose update is zeroed out.

        Proposition 14 of Kairouz, Liu and Steinke (2021, arXiv:2102.06387).
        """
        tau, d = self.distance, self.entries
        l2, l1 = self.l2 / math.sqrt(self.variance), self.l1 / math.sqrt(self.variance)
        return min(
            order * l2**2 / 2 + tau * d,
            order / 2 * (l2**2 + 2 * l1 * tau + tau**2 * d),
            order / 2 * (l2 + math.sqrt(d) * tau) ** 2,
        )

    @property
    def distance(self) -> float:
        """How far the sum is from a discrete Gaussian variable, tau of Theorem 1."""
        exponent = -2 * (math.pi * self.deviation) ** 2
        terms = (math.exp(exponent * k / (k + 1)) for k in range(1, self.clients))
        return 10 * math.fsum(terms)


class Mechanism(NamedTuple):
    """What a release tells: by default one of the Gaussian mechanism.

    Attributes:
        noise_multiplier: Standard deviation of the noise in units of what someone who is zeroed
            out moves: z of a release, all that it tells taken together. A rule releases once a
            round, `dp_sgd` once a local step.
        divisor: Constant that the noised sum is divided by; None for the planned cohort, or for
            the rows of a batch.
        unit: Whose presence is hidden: "client", or "row", one row of a client's batches.
        at_clients: Whether clients add the noise. Then clients have keys of the run's secret, and
            not of its seed. Default: False, the server adds it.
        rate: Probability with which a row is in a local step, drawn from the secret; None
            (default) for the passes of shuffled rows that a `Batching` makes.
        rounds: Most rounds of a run, where the noise of rounds is correlated: then its key is one
            for the run. None (default): rounds have noise of their own, and keys of their own.
        separation: Rounds by which those of a client must be apart for the account. Default: 1.
        relation: What neighbours differ in; None (default) for the first that `Account` knows.
        integers: The `Skellam` or `DiscreteGaussian` mechanism, where the noise is integers; None
            (default) for Gaussian noise.

    """

    noise_multiplier: float | int
    divisor: float | int | None = None
    unit: str = "client"
    at_clients: bool = False
    rate: float | int | None = None
    rounds: int | None = None
    separation: int = 1
    relation: str | None = None
    integers: Skellam | DiscreteGaussian | None = None
