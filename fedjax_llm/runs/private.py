"""The privacy of a run: what it needs beside its rule, and what rows say of it and withhold."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..algorithm import FederatedAlgorithm, SplitMethod
from ..privacy import Account, Poisson, Secret, Separated, read_secret
from ..simulation import Conditions
from .config import ENDS, ParsedConfig, RunConfig
from .contents import Contents
from .results import Row
from .texts import in_field

WITHHELD = ("accepted", "failed", "update_norm", "clients", "malicious")
"""Fields of a round's row that follow from clients' data or from the secret draw without noise; so
do the training loss and those of `OF_CLIENTS`."""
OF_CLIENTS = ("steps", "dropped", "silent", "late")
"""Fields about faults, by client."""
NOT_COVERED = (
    "uplink_bytes",
    "downlink_bytes",
    "header_bytes",
    "answers",
    "sent",
    "simulated_seconds",
    "losses and scores on held-out text of training clients",
    "rounds, where target_loss ends them",
    "baselines",
)
"""What rows tell without noise all the same, as it is what a simulation is for."""


class Private(NamedTuple):
    """The privacy of a run.

    Attributes:
        account: Epsilon by rounds.
        secret: The secret of this run alone, made of the user's and of the configuration.
        unit: Whose presence is hidden.
        sampler: The sampler, as text.
        contents: The digest of the user's secret.

    """

    account: Account
    secret: Secret
    unit: str
    sampler: str
    contents: Contents

    def row(self, rounds: int) -> Row:
        """What rows say of privacy after a number of rounds."""
        account = self.account
        return {
            "epsilon": account.epsilon(rounds),
            "delta": account.delta,
            "noise_multiplier": account.noise_multiplier,
            "unit": self.unit,
            "relation": account.relation,
            "sampler": self.sampler,
            "accountant": account.accountant,
        }

    def withheld(self, row: Row, unit: str) -> Row:
        """A round's row without what is withheld: those fields are None, and listed."""
        names = [
            name
            for name in (f"train_nats_per_{unit}", *WITHHELD, *OF_CLIENTS)
            if row.get(name) is not None
        ]
        said = self.row(row["round"]) | {"withheld": names, "not_covered": list(NOT_COVERED)}
        return row | dict.fromkeys(names) | {"privacy": said}


def private(
    parsed: ParsedConfig,
    algorithm: FederatedAlgorithm | SplitMethod,
    under: Conditions,
    names: Sequence[str],
    contents: Contents,
) -> Private | None:
    """The privacy of a run; None for one whose method adds no noise.

    Args:
        parsed: The configuration.
        algorithm: Its method, built.
        under: Its conditions.
        names: All training clients.
        contents: Digests of all that the run reads.

    Raises:
        ValueError: Naming the field that is missing, or that nothing reads.
        ModuleNotFoundError: Without dp-accounting.

    """
    config = parsed.config
    mechanism = None if isinstance(algorithm, SplitMethod) else algorithm.mechanism
    if mechanism is None:
        for name in ("secret", "delta"):
            if (got := getattr(config, name)) is not None:
                raise ValueError(
                    f"{name}: expected none without noise, got {got!r}; "
                    "--aggregate 'dp_fed_avg(clip=1.0, noise_multiplier=1.0)' adds it."
                )
        return None
    _check(parsed, algorithm)
    assert config.secret is not None and config.delta is not None  # noqa: S101, PT018 - as checked
    clients, population = config.clients, len(names)
    participation = under.sampler and under.sampler.participation(clients, population)
    if isinstance(participation, Poisson) and mechanism.divisor is None:
        expected = participation.rate * population
        raise ValueError(
            f"aggregate: expected a divisor with {config.sampler}, such as divisor={expected:g}, "
            f"the clients that a round expects, got {config.aggregate}."
        )
    account_of = partial(Account, mechanism.noise_multiplier, participation or Separated())
    account = in_field("delta", partial(account_of, delta=config.delta))
    if config.delta >= 1 / population:
        warnings.warn(
            f"delta: expected well below {1 / population:.2g}, one in {population} clients, got "
            f"{config.delta:g}, with which publishing a random client's data is private.",
            stacklevel=2,
        )
    secret = in_field("secret", read_secret, Path(config.secret))
    return Private(
        account,
        secret.bound(_context(config, contents)),
        mechanism.unit,
        config.sampler or "one cohort size, drawn from the run's seed",
        {"secret": secret.digest},
    )


def _check(parsed: ParsedConfig, algorithm: Any) -> None:
    config = parsed.config
    wanted = {
        "secret": "a file of random digits that stays secret; "
        "python -c 'import secrets; print(secrets.token_hex(32))' > noise.secret makes one",
        "delta": "the delta at which epsilon is told, well below one in as many clients as there "
        "are",
    }
    for name, expected in wanted.items():
        if getattr(config, name) is None:
            raise ValueError(f"{name}: with {config.aggregate} expected {expected}; got none.")
    if config.buffer is not None:
        raise ValueError(
            f"buffer: expected none with {config.aggregate}, whose noise is for whole rounds, got "
            f"{config.buffer}."
        )
    if config.deadline is not None:
        raise ValueError(
            f"deadline: expected none with {config.aggregate}, as who counts may not depend on "
            f"others' data, got {config.deadline}."
        )
    if algorithm.personal is not None:
        raise ValueError(
            f"algorithm: expected a method of one model with {config.aggregate}, as the models of "
            f"clients have no noise, got {config.algorithm}."
        )


def _context(config: RunConfig, contents: Contents) -> str:
    """What a run's noise is for: its contents, and all of its configuration but when it ends.

    With the data that a file holds, as two runs of equal noise on data that differ in one client
    would give that client's update away. Fields at their defaults are left out, so that a later
    version with more fields still resumes the run.
    """
    default = asdict(RunConfig())
    fields = {
        name: value
        for name, value in asdict(config).items()
        if name not in (*ENDS, "secret") and value != default[name]
    }
    return json.dumps([fields, contents], sort_keys=True, default=str)
