"""Tuning: successive halving over candidates, on clients that no reported run reads."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ..checks import check_count, check_real
from ..data.partitions.aside import reported_clients, tuning_clients
from ..data.registry import DATA
from ..data.unseen import UNSEEN, held_out_count
from ..runs import Named, RunConfig, canonical
from ..runs.config import parse_config
from ..runs.contents import Contents
from ..runs.texts import Parsed, built, parsed
from .costs import unit
from .sweep import built as built_runs
from .sweep import sweep

OPTIMIZERS = ("client_optimizer", "server_optimizer")
"""Fields that some methods do not need, and that are then not tuned."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How each configuration of a study is tuned, within the same budget.

    A share of the clients is set aside: candidates train on them and are judged by the last pieces
    of their text, and the study's own runs are given the other clients alone. The candidates run
    for `rounds` rounds, the better half of them for twice as many, and so on until one is left
    (Jamieson and Talwalkar 2016, arXiv:1502.07943); with `halve=False` the best after `rounds` is
    taken. Every configuration must have as many candidates as the others, so that all have the
    same budget.

    Rates that are best after a few rounds are often too large for many, above all with noisy
    codecs. So give the last rung about as many rounds as the study's own runs.

    A tuning run has the field values of its candidate, but for: its rounds, its seed, its clients a
    round (those of the candidate, but at most all that there are), its held-out text and unseen
    clients (the candidate's where they are shares, else share(0.1)), and no `population`,
    `evaluate_every` or `target_loss`.

    Attributes:
        candidates: Values by field, of which each combination is a candidate, such as
            `{"client_optimizer": ("adam(0.001)", "adam(0.01)")}`; an optimizer that a method does
            not need is left out for it. Or a function that returns a configuration's candidates.
        rounds: Rounds of the first candidates.
        halve: Whether the better half of the candidates runs on for twice as many rounds.
        share: Share of the clients that are set aside.
        seed: Seed of the tuning runs, and of the draw of their clients.

    """

    candidates: Mapping[str, Sequence[Any]] | Callable[[RunConfig], Sequence[RunConfig]]
    rounds: int = 4
    halve: bool = True
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `ValueError` or `TypeError` for a field that is out of range."""
        if isinstance(self.candidates, Mapping):
            known = {field.name for field in dataclasses.fields(RunConfig)}
            for name, values in self.candidates.items():
                if name not in known or name == "seed":
                    raise ValueError(
                        "tune: candidates: expected fields of RunConfig but the seed, got "
                        f"{name!r}."
                    )
                if isinstance(values, str) or not isinstance(values, Sequence) or not values:
                    raise ValueError(
                        f"tune: candidates: {name}: expected a list of at least one value, got "
                        f"{values!r}."
                    )
        elif not callable(self.candidates):
            raise TypeError(
                "tune: candidates: expected values by field or a function of a configuration, got "
                f"{self.candidates!r}."
            )
        check_count(self.rounds, who="tune", name="rounds")
        if not isinstance(self.halve, bool):
            raise TypeError(f"tune: halve: expected True or False, got {self.halve!r}.")
        check_real(self.share, who="tune", name="share", above=0, below=1)
        check_count(self.seed, who="tune", name="seed", at_least=0)

    def of(self, config: RunConfig) -> list[RunConfig]:
        """The candidates of a configuration."""
        if not isinstance(self.candidates, Mapping):
            return list(self.candidates(config))
        needs = parse_config(config).method.needs
        fields = {
            name: values
            for name, values in self.candidates.items()
            if name not in OPTIMIZERS or name in needs
        }
        return [
            dataclasses.replace(config, **dict(zip(fields, values, strict=True)))
            for values in itertools.product(*fields.values())
        ]

    def reported(self, config: RunConfig) -> RunConfig:
        """The configuration on the clients that are not set aside."""
        return dataclasses.replace(config, data=self._part(config, reported_clients))

    def trials(self, configs: Sequence[RunConfig]) -> list[RunConfig]:
        """Configurations as tuning runs of the first rung, on the clients set aside."""
        most: dict[tuple[str, str], int] = {}  # data is read once, not for each candidate
        return [self._trial(config, most) for config in configs]

    def _trial(self, config: RunConfig, most: dict[tuple[str, str], int]) -> RunConfig:
        data = self._part(config, tuning_clients)
        texts = parse_config(config).texts
        own: dict[str, Any] = {name: _share_of(texts[name]) for name in ("heldout", "unseen")}
        if (data, own["unseen"]) not in most:
            names = tuple(built("data", parsed("data", data), DATA))
            unseen: Any = built("unseen", parsed("unseen", own["unseen"]), UNSEEN)
            most[data, own["unseen"]] = len(names) - held_out_count(unseen, names)
        return dataclasses.replace(
            config,
            data=data,
            rounds=self.rounds,
            seed=self.seed,
            clients=min(config.clients, most[data, own["unseen"]]),
            population=None,
            evaluate_every=None,
            target_loss=None,
            **own,
        )

    def _part(self, config: RunConfig, part: Callable[..., Any]) -> str:
        text = parse_config(config).texts["data"]
        name = f"{part.__name__}({text.text}, seed={self.seed}, share={self.share})"
        if text.value is None:
            return name
        return Named(name, part(text.value, seed=self.seed, share=self.share))


class Tuned(NamedTuple):
    """What tuning found for a configuration.

    Attributes:
        best: The number of the best candidate.
        chosen: That candidate, on the clients that are not set aside.
        rungs: For each rung its rounds, and the losses of its candidates by number; infinite where
            a run diverged.
        rounds: All rounds that were run: the budget, the same for each configuration.

    """

    best: int
    chosen: RunConfig
    rungs: list[tuple[int, dict[int, float | int]]]
    rounds: int


class Candidates(NamedTuple):
    """The candidates of a configuration, and their tuning runs of the first rung."""

    configs: list[RunConfig]
    trials: list[RunConfig]


def candidates_of(tuning: Tuning, configs: Sequence[RunConfig]) -> list[Candidates]:
    """The candidates of each configuration.

    Raises `ValueError` where one has none, or another number of them than the first.
    """
    found = [tuning.of(config) for config in configs]
    for config, mine in zip(configs, found, strict=True):
        if not mine or len(mine) != len(found[0]):
            raise ValueError(
                f"tune: candidates: expected as many for each configuration, as they share a "
                f"budget, got {len(found[0])} for {configs[0].algorithm} with "
                f"{configs[0].uplink} and {len(mine)} for {config.algorithm} with {config.uplink}; "
                "give a function (configuration) -> candidates."
            )
    trials = tuning.trials([each for mine in found for each in mine])
    count = len(found[0])
    return [
        Candidates(mine, trials[number * count : (number + 1) * count])
        for number, mine in enumerate(found)
    ]


def tuned(tuning: Tuning, candidates: Candidates, results: Path) -> Tuned:
    """Choose among the candidates of a configuration.

    Args:
        tuning: How.
        candidates: The candidates.
        results: File of the rows of tuning runs; those that are there are not run again.

    Raises:
        ValueError: Where all candidates diverged.

    """

    def measure(which: Sequence[int], rounds: int) -> list[float | int]:
        wanted = [
            canonical(dataclasses.replace(candidates.trials[number], rounds=rounds))
            for number in which
        ]
        runs = built_runs(wanted)  # two candidates of one configuration are one run
        losses = dict(zip(runs, _losses(runs, results), strict=True))
        return [losses[config] for config in wanted]

    best, rungs = successive_halving(
        len(candidates.trials), measure, rounds=tuning.rounds, halve=tuning.halve
    )
    if rungs and not isfinite(_latest(rungs)[best].loss):
        first = candidates.configs[0]
        raise ValueError(
            f"tune: expected a candidate of {first.algorithm} with {first.uplink} that trains, got "
            "a loss that is not finite from all of them; give smaller rates."
        )
    spent = sum(rounds * len(losses) for rounds, losses in rungs)
    return Tuned(best, tuning.reported(candidates.configs[best]), rungs, spent)


def successive_halving(
    count: int,
    measure: Callable[[Sequence[int], int], Sequence[float | int]],
    *,
    rounds: int,
    halve: bool = True,
) -> tuple[int, list[tuple[int, dict[int, float | int]]]]:
    """Halve the candidates and double their rounds, until one is left (arXiv:1502.07943).

    Args:
        count: Number of candidates, at least 1.
        measure: `(candidates, rounds) -> losses`.
        rounds: Rounds of the first rung.
        halve: Whether there are more rungs than the first.

    Returns:
        The best candidate, and each rung's rounds with its candidates' losses. Of equal losses the
        first candidate's wins; one that is not finite loses. Where all of a rung diverge, the best
        of those that had been left out in the rung before wins, and so on.

    Example:
        >>> def measure(which, rounds):
        ...     return [number % 3 for number in which]
        >>> best, rungs = successive_halving(4, measure, rounds=2)
        >>> best, [(rounds, list(losses)) for rounds, losses in rungs]
        (0, [(2, [0, 1, 2, 3]), (4, [0, 3])])

    """
    left = list(range(count))
    rungs: list[tuple[int, dict[int, float | int]]] = []
    while len(left) > 1:
        found = [loss if isfinite(loss) else inf for loss in measure(left, rounds)]
        rungs.append((rounds, dict(zip(left, found, strict=True))))
        kept = sorted(left, key=lambda number: (rungs[-1][1][number], number))
        left = sorted(kept[: (len(left) + 1) // 2 if halve else 1])
        rounds *= 2
    latest = _latest(rungs)

    def order(n: int) -> tuple:
        loss, lasted = latest[n]
        return not isfinite(loss), -lasted, loss, n

    return min(latest, key=order, default=left[0]), rungs


class _Latest(NamedTuple):
    loss: float | int
    rounds: int


def _latest(rungs: Sequence[tuple[int, Mapping[int, float | int]]]) -> dict[int, _Latest]:
    """The loss of each candidate in the last rung that it was in, and that rung's rounds."""
    return {n: _Latest(loss, rounds) for rounds, losses in rungs for n, loss in losses.items()}


def _losses(runs: Mapping[RunConfig, Contents], results: Path) -> list[float | int]:
    rows = list(sweep(runs, results, what="tuning "))
    found = [row.get(f"heldout_nats_per_{unit([row])}") for row in rows]
    return [inf if loss is None else loss for loss in found]


def _share_of(text: Parsed) -> str:
    return text.text if text.call.name == "share" else "share(0.1)"
