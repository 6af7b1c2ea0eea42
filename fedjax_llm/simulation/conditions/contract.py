"""The conditions that a federation runs under, and a round's plan under them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ...attacks.contract import Attack
from .availability import Availability
from .deadline import Deadline
from .faults import Faults
from .network import Network


class Conditions(NamedTuple):
    """The conditions that a federation runs under.

    `Conditions()` means that every client answers and that rounds take no simulated time. A
    deadline or an availability needs a network, which is what simulated time is computed from.

    Attributes:
        faults: Which clients drop out, stay silent, fail or do less work, such as
            `faults(dropout=0.1)`; None, the default, for no faults.
        network: Speeds of the clients' links and of their local steps: `link(...)` or
            `links(path)`; None, the default, for rounds without simulated time.
        deadline: When the server stops waiting for a round's clients: `deadline(...)`; None, the
            default, to wait for all of them.
        availability: When clients can be drawn: `diurnal(...)` or `trace(path)`; None, the default,
            for always.
        attack: Which clients are malicious and what they do, such as `alie(fraction=0.2)`; None,
            the default, for none.

    Example:
        >>> from fedjax_llm.simulation import Conditions, deadline, faults, link
        >>> network = link(uplink=1e6, downlink=1e7, latency=0.1, step=0.5)
        >>> conditions = Conditions(faults(dropout=0.1), network, deadline(seconds=60))
        >>> conditions.availability is None
        True

    """

    faults: Faults | None = None
    network: Network | None = None
    deadline: Deadline | None = None
    availability: Availability | None = None
    attack: Attack | None = None


class Plan(NamedTuple):
    """What happens to each client of a round's cohort: NumPy arrays `[cohort]` on the host.

    Attributes:
        dropped: Clients that drop out; see `Fate`.
        silent: Clients that train and do not answer; see `Fate`.
        failed: Clients that compute with NaNs; see `Fate`.
        steps: Number of local steps that each client completes.
        late: Clients whose answers come after the deadline and are discarded.

    """

    dropped: Bool[np.ndarray, " cohort"]
    silent: Bool[np.ndarray, " cohort"]
    failed: Bool[np.ndarray, " cohort"]
    steps: Int[np.ndarray, " cohort"]
    late: Bool[np.ndarray, " cohort"]

    @property
    def answers(self) -> Bool[np.ndarray, " cohort"]:
        """Clients that send an uplink, in time or late."""
        return ~(self.dropped | self.silent)

    @property
    def counted(self) -> Bool[np.ndarray, " cohort"]:
        """Clients whose uplink the server folds in, if it is finite."""
        return self.answers & ~self.late

    @property
    def trained(self) -> Bool[np.ndarray, " cohort"]:
        """Clients whose training left a new state; the others keep their old one."""
        return ~(self.dropped | self.failed)
