"""What a federation runs under, and what becomes of a round's clients."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from .availability import Availability
from .deadline import Deadline
from .faults import Faults
from .network import Network


class Conditions(NamedTuple):
    """Under what a federation runs: without any of them nothing goes wrong, and nothing is timed.

    A deadline and availability need a network, as time is its.
    """

    faults: Faults | None = None
    network: Network | None = None
    deadline: Deadline | None = None
    availability: Availability | None = None


class Plan(NamedTuple):
    """What becomes of a round's clients: leaves `[cohort]`, on the host."""

    dropped: Bool[np.ndarray, " cohort"]
    """This, `silent` and `failed` are as `Fate` says."""
    silent: Bool[np.ndarray, " cohort"]
    failed: Bool[np.ndarray, " cohort"]
    steps: Int[np.ndarray, " cohort"]
    """Local steps that each finishes."""
    late: Bool[np.ndarray, " cohort"]
    """Whose answers come after the deadline, and are thrown away."""

    @property
    def answers(self) -> Bool[np.ndarray, " cohort"]:
        """Whose uplinks are sent, in time or not."""
        return ~(self.dropped | self.silent)

    @property
    def counted(self) -> Bool[np.ndarray, " cohort"]:
        """Whose uplinks the server folds in, if they are finite."""
        return self.answers & ~self.late

    @property
    def keeps(self) -> Bool[np.ndarray, " cohort"]:
        """Whose lasting state is that after the round."""
        return ~(self.dropped | self.failed)
