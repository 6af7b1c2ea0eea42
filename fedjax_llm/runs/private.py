"""The privacy of a run: what it needs beside its rule, and what rows say of it and withhold."""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..algorithm import FederatedAlgorithm, SplitMethod
from ..data import Batching, ClientData
from ..privacy import (
    Account,
    IntegerAccount,
    Mechanism,
    Participation,
    Poisson,
    PrivateLoss,
    Secret,
    Separated,
    read_secret,
    releases_of_row,
)
from ..simulation import Conditions
from .config import ENDS, ParsedConfig, RunConfig
from .contents import Contents
from .results import Row
from .texts import in_field

WITHHELD = ("accepted", "failed", "update_norm", "clients", "malicious", "clipped")
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
        account: Epsilon by releases.
        releases: `(rounds) -> releases` that see a unit, at most.
        secret: The secret of this run alone, made of the user's and of the configuration.
        unit: Whose presence is hidden.
        sampler: How clients, and rows where they are the unit, are drawn, as text.
        contents: The digest of the user's secret.

    """

    account: Account | IntegerAccount
    releases: Callable[[int], int]
    secret: Secret
    unit: str
    sampler: str
    contents: Contents

    def row(self, rounds: int) -> Row:
        """What rows say of privacy after a number of rounds."""
        account = self.account
        return {
            "epsilon": account.epsilon(self.releases(rounds)),
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
    data: ClientData,
    batching: Batching,
    contents: Contents,
) -> Private | None:
    """The privacy of a run; None for one whose method adds no noise.

    Args:
        parsed: The configuration.
        algorithm: Its method, built.
        under: Its conditions.
        data: All training clients' data.
        batching: Their batches.
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
    by = config.gradients or config.aggregate
    _check(parsed, algorithm, str(by))
    assert config.secret is not None and config.delta is not None  # noqa: S101, PT018 - as checked
    clients, population = config.clients, len(data.names)
    participation = under.sampler and under.sampler.participation(clients, population)
    cohorts = config.sampler or "one cohort size, drawn from the run's seed"
    if mechanism.unit == "row":
        kept = _rows(mechanism, participation, data, batching, cohorts)
    elif mechanism.at_clients:
        # nobody's draw is hidden from a server that sees who answers
        apart = participation.rounds if isinstance(participation, Separated) else 1
        kept = _Kept(Separated(), lambda rounds: -(-rounds // apart), cohorts, population)
    elif isinstance(participation, Poisson) and mechanism.divisor is None:
        expected = participation.rate * population
        raise ValueError(
            f"aggregate: expected a divisor with {config.sampler}, such as divisor={expected:g}, "
            f"the clients that a round expects, got {config.aggregate}."
        )
    else:
        kept = _Kept(participation or Separated(), lambda rounds: rounds, cohorts, population)
    if mechanism.separation > 1 and not (
        isinstance(participation, Separated) and participation.rounds >= mechanism.separation
    ):
        raise ValueError(
            f"sampler: with {by} expected cyclic(min_separation={mechanism.separation}) or more, "
            f"as its noise hides a client whose rounds are so far apart, got {config.sampler}."
        )
    if mechanism.rounds is not None and config.rounds > mechanism.rounds:
        raise ValueError(
            f"rounds: expected at most {mechanism.rounds}, for which the noise of {by} is made, "
            f"got {config.rounds}."
        )
    account_of: Callable[..., Account | IntegerAccount]
    if mechanism.integers:
        account_of = partial(IntegerAccount, mechanism.integers, mechanism.noise_multiplier)
    else:
        account_of = partial(
            Account, mechanism.noise_multiplier, kept.participation, relation=mechanism.relation
        )
    account = in_field("delta", partial(account_of, delta=config.delta))
    if config.delta >= 1 / kept.units:
        unit = mechanism.unit
        warnings.warn(
            f"delta: expected well below {1 / kept.units:.2g}, one in {kept.units} {unit}s, got "
            f"{config.delta:g}, with which publishing a random {unit}'s data is private.",
            stacklevel=2,
        )
    secret = in_field("secret", read_secret, Path(config.secret))
    return Private(
        account,
        kept.releases,
        secret.bound(_context(config, contents)),
        mechanism.unit,
        kept.sampler,
        {"secret": secret.digest},
    )


class _Kept(NamedTuple):
    """What is private: who is in which release, releases by rounds, told as text, and units."""

    participation: Participation
    releases: Callable[[int], int]
    sampler: str
    units: int


def _rows(
    mechanism: Mechanism,
    participation: Participation | None,
    data: ClientData,
    batching: Batching,
    cohorts: str,
) -> _Kept:
    """The privacy of rows: of the client whose rows are in most releases.

    The server sees who was drawn, so that no draw of clients amplifies; a separation of a client's
    rounds counts.
    """
    counts = data.rows(range(len(data.names)), seq=batching.seq, pack=batching.pack).counts
    sizes = sorted({int(count) for count in counts if count})
    apart = participation.rounds if isinstance(participation, Separated) else 1

    def of_rounds(each: int) -> Callable[[int], int]:
        return lambda rounds: -(-rounds // apart) * each

    units = int(counts.sum())
    if mechanism.rate is not None:
        assert batching.steps is not None  # noqa: S101 - as it is checked
        if mechanism.rate * sizes[-1] > batching.batch:
            raise ValueError(
                f"batch: expected room for {mechanism.rate * sizes[-1]:.0f} rows or more, which a "
                f"step draws on average of the client with {sizes[-1]}, got {batching.batch}; "
                "leave room for twice as many, as draws that are cut cost privacy."
            )
        drawn = Poisson(mechanism.rate, sizes[-1], batching.batch)
        told = f"{cohorts}; each row in each step with probability {mechanism.rate:g}"
        return _Kept(drawn, of_rounds(batching.steps), told, units)
    most = max(
        releases_of_row(
            rows,
            batch=batching.batch,
            drawn=(batching.steps or 0) * batching.batch or (batching.epochs or 0) * rows,
        )
        for rows in sizes
    )
    told = f"{cohorts}; rows in shuffled passes, at most {most} releases of a row in a round"
    return _Kept(Separated(), of_rounds(most), told, units)


def check_gradients(parsed: ParsedConfig, algorithm: Any, loss: PrivateLoss) -> None:
    """Raise `ValueError` where a method or its batches cannot have the noise of `dp_sgd`."""
    config = parsed.config
    if algorithm.mechanism is None:
        raise ValueError(
            "gradients: expected a method whose clients take local steps of one optimizer and send "
            f"the difference, such as fed_avg(), got {config.algorithm}, which would compute "
            "something of the data without noise."
        )
    if loss.microbatch and config.batch % loss.microbatch:
        raise ValueError(
            f"gradients: microbatch: expected a divisor of batch={config.batch}, got "
            f"{loss.microbatch}."
        )
    if loss.rate is not None and config.local_steps is None:
        raise ValueError(
            f"local_epochs: expected local_steps with rows drawn at a rate, got "
            f"{config.local_epochs} epochs."
        )


def _check(parsed: ParsedConfig, algorithm: Any, by: str) -> None:
    config = parsed.config
    wanted = {
        "secret": "a file of random digits that stays secret; "
        "python -c 'import secrets; print(secrets.token_hex(32))' > noise.secret makes one",
        "delta": "the delta at which epsilon is told, well below one in as many clients as there "
        "are",
    }
    for name, expected in wanted.items():
        if getattr(config, name) is None:
            raise ValueError(f"{name}: with {by} expected {expected}; got none.")
    if config.buffer is not None:
        raise ValueError(
            f"buffer: expected none with {by}, whose noise is for whole rounds, got "
            f"{config.buffer}."
        )
    if config.deadline is not None:
        raise ValueError(
            f"deadline: expected none with {by}, as who counts may not depend on "
            f"others' data, got {config.deadline}."
        )
    if algorithm.personal is not None:
        raise ValueError(
            f"algorithm: expected a method of one model with {by}, as the models of "
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
