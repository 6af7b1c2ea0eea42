"""What a private rule releases in each round, for those who account for it."""

from typing import NamedTuple


class Mechanism(NamedTuple):
    """The Gaussian mechanism of a round: one client moves what is noised by at most one unit.

    Attributes:
        noise_multiplier: Standard deviation of the noise, in units of what one client moves: z of
            the whole round, all that it releases taken together.
        divisor: Constant that the noised sum is divided by; None for the planned cohort.
        unit: Whose presence is hidden: "client".

    """

    noise_multiplier: float | int
    divisor: float | int | None = None
    unit: str = "client"
