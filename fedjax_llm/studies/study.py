"""A study: a list of configurations, tuned and run, with its table and pictures."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path

from ..checks import check_count, check_real
from ..locks import locked
from ..runs import Row, RunConfig, canonical
from ..runs.contents import Contents
from ..runs.live import minute_lines
from ..runs.results import read_rows, write_object
from .costs import COSTS, SECONDS, Cost, cost_in
from .edges import on_edge, tuned_fields, with_tuning
from .figure import draw
from .settings import check_comparable, identity
from .sweep import built, sweep
from .tuning import Candidates, Tuned, Tuning, candidates_of, tuned


@dataclass(frozen=True)
class Study:
    """Configurations that differ in any fields, to be compared by loss and cost.

    Attributes:
        configurations: The configurations.
        seeds: Seeds to repeat each of them with: a seed draws the same clients in every round, the
            same held-out text and the same start for all of them. None: each one's own seed.
            Default: 0, 1 and 2.
        tune: How each is tuned before it is reported. Default: not at all.
        target: Loss, in nats, to which costs are reported too. Needs `evaluate_every` in every
            configuration.
        costs: What loss is drawn against: uplink, downlink, both and seconds. Simulated seconds
            are drawn wherever all runs have a link.
        highest: Largest loss that pictures show; points above stand on the upper edge, with their
            loss. Default: that of the points.

    """

    configurations: Sequence[RunConfig]
    _: KW_ONLY
    seeds: Sequence[int] | None = (0, 1, 2)
    tune: Tuning | None = None
    target: float | int | None = None
    costs: Sequence[str] = ("uplink",)
    highest: float | int | None = None

    def __post_init__(self) -> None:
        """Raise `TypeError` or `ValueError` for a field of the wrong kind or out of range."""
        for config in self.configurations:
            if not isinstance(config, RunConfig):
                raise TypeError(f"study: configurations: expected RunConfig, got {config!r}.")
        if not self.configurations or (self.seeds is not None and not list(self.seeds)):
            raise ValueError("study: expected at least one configuration and one seed, got none.")
        if self.seeds is not None:
            for seed in self.seeds:
                check_count(seed, who="study", name="seeds", at_least=0)
            if len(set(self.seeds)) != len(self.seeds):
                raise ValueError(f"study: seeds: expected different ones, got {list(self.seeds)}.")
        for config, count in Counter(self.runs(self.configurations)).items():
            if count > 1:
                raise ValueError(
                    f"study: configurations: expected different ones, got {count} that are "
                    f"{config.algorithm} with {config.uplink}, seed {config.seed}, and alike in "
                    "all else."
                )
        if unknown := [name for name in self.costs if name not in COSTS]:
            raise ValueError(
                f"study: costs: expected some of {', '.join(COSTS)}, got {unknown[0]!r}."
            )
        if not self.costs:
            raise ValueError(f"study: costs: expected some of {', '.join(COSTS)}, got none.")
        self._check_losses()

    def _check_losses(self) -> None:
        for name in ("highest", "target"):
            if (loss := getattr(self, name)) is not None:
                check_real(loss, who="study", name=name, above=0)
        if self.target is not None and any(c.evaluate_every is None for c in self.configurations):
            raise ValueError(
                "study: target: expected evaluate_every in every configuration, by which it is "
                "seen when the loss is reached, got none."
            )

    def runs(self, configurations: Sequence[RunConfig]) -> list[RunConfig]:
        """Configurations with each of the study's seeds, in the order of their runs."""
        if self.seeds is None:
            return list(configurations)
        return [
            dataclasses.replace(config, seed=seed)
            for seed in self.seeds
            for config in configurations
        ]

    def drawn(self, rows: Sequence[Row]) -> list[Cost]:
        """The costs that its pictures are drawn against."""
        found = [COSTS[name] for name in self.costs]
        timed = bool(rows) and all(SECONDS.field in row for row in rows)
        return [*found, *([SECONDS] if timed and SECONDS not in found else [])]


def run_study(study: Study, *, out: Path | str = "runs/study", together: bool = False) -> list[Row]:
    """Tune and run the configurations of a study, and draw its pictures.

    Writes `results.jsonl` and `results.csv` (a row for each run), `study.json` (the configurations,
    and what tuning chose of which candidates), a picture for each cost, and where it is tuned
    `tuning.jsonl` and `tuning.csv` (a row for each tuning run). Runs whose row is there are not run
    again.

    Args:
        study: The study.
        out: Folder for the results.
        together: Run the seeds of a configuration as one program: equal to rounding, and faster
            where one run does not fill the device, for the memory of all.

    Returns:
        The summary rows of all configurations for each seed. Those of a tuned study also have
        `tuned_fields`, names of fields, and `on_edge`, a list of notes, where tuning chose a value
        that is the smallest or the largest that was tried.

    Raises:
        ValueError: For a wrong configuration or candidate, for configurations whose losses cannot
            be compared and for one that is there twice, before anything runs; for a folder that
            another process writes to; for rows of other contents than these configurations read.

    Example:
        >>> import tempfile
        >>> from fedjax_llm import DecoderConfig, RunConfig, Study, run_study
        >>> tiny = RunConfig(
        ...     rounds=1, clients=2, batch=1, seq=16,
        ...     data="shakespeare(roles='hamlet/HAMLET, macbeth/MACBETH, othello/IAGO')",
        ...     decoder=DecoderConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1),
        ... )
        >>> steps = [dataclasses.replace(tiny, local_steps=steps) for steps in (1, 2)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = run_study(Study(steps, seeds=[0]), out=folder)
        >>> [(row["config"]["local_steps"], row["seed"]) for row in rows]
        [(1, 0), (2, 0)]

    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder to write to, got a file.")
    configs, tune = list(study.configurations), study.tune
    candidates: list[Candidates] = []
    with minute_lines("reading data and model"):
        if tune:
            candidates = candidates_of(tune, configs)
            built(trial for each in candidates for trial in each.trials)
            _built(study, [tune.reported(each.configs[0]) for each in candidates])
            runs: dict[RunConfig, Contents] = {}
        else:
            runs = _built(study, configs)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        found: list[Tuned] = []
        if tune:
            results = folder / "tuning.jsonl"
            found = [tuned(tune, mine, results) for mine in candidates]
            with minute_lines("reading data and model"):
                runs = _built(study, [each.chosen for each in found])
        about = _about(study, runs, found, candidates)
        write_object(folder / "study.json", about)
        rows = with_tuning(list(sweep(runs, folder / "results.jsonl", together=together)), about)
        for cost in study.drawn(rows):
            if any(cost_in(row, cost) is not None for row in rows):
                draw(
                    rows,
                    folder / cost.file,
                    cost,
                    target=study.target,
                    highest=study.highest,
                )
    return rows


def _built(study: Study, configurations: Sequence[RunConfig]) -> dict[RunConfig, Contents]:
    """Build the runs; raise `ValueError` where they cannot be compared, or two are the same."""
    wanted = study.runs(configurations)
    found = built(wanted)
    if len(found) < len(wanted):
        raise ValueError(
            f"study: configurations: expected {len(wanted)} different runs, got {len(found)}, as "
            "some are alike but for how they are written, or for what is tuned; list each once."
        )
    planned = [
        {"codec": config.uplink, "uplink_bytes": None, "seed": config.seed}
        | {"config": asdict(config), "contents": contents}
        for config, contents in found.items()
    ]
    check_comparable(planned)
    return found


def finished_rows(folder: Path) -> tuple[list[Row], list[Row]]:
    """The rows of a study's folder that are there, and the configurations that should have one.

    Raises `ValueError` for a folder without a study, or of which tuning is not done.
    """
    about = folder / "study.json"
    if not about.exists():
        raise ValueError(
            f"{folder}: expected study.json, which a study writes when its tuning is done, got "
            "none."
        )
    known = json.loads(about.read_text(encoding="utf-8"))
    wanted = known["configurations"]
    ours = {identity(config) for config in wanted}
    rows = read_rows(folder / "results.jsonl")
    return with_tuning([r for r in rows if identity(r.get("config", {})) in ours], known), wanted


def _about(
    study: Study,
    runs: dict[RunConfig, Contents],
    found: Sequence[Tuned],
    candidates: Sequence[Candidates],
) -> Row:
    return {
        "configurations": [asdict(config) for config in runs],
        "seeds": None if study.seeds is None else list(study.seeds),
        "target": study.target,
        "costs": list(study.costs),
        "tuned": [
            {
                "candidates": [asdict(canonical(each)) for each in mine.configs],
                "rungs": [
                    {"rounds": rounds, "losses": {str(n): loss for n, loss in losses.items()}}
                    for rounds, losses in each.rungs
                ],
                "rounds": each.rounds,
                "chosen": asdict(canonical(each.chosen)),
                "tuned_fields": tuned_fields(mine.configs),
                "on_edge": on_edge(mine.configs, mine.configs[each.best]),
            }
            for each, mine in zip(found, candidates, strict=True)
        ],
    }
