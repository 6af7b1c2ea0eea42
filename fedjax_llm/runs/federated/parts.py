"""What the processes of a federation build from one configuration, each for itself."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedjax_compression.errors import message
from jaxtyping import PyTree

from ...aggregators.registry import AGGREGATORS
from ...algorithm import FederatedAlgorithm, SplitMethod
from ...data.batches import batches_of_one
from ...data.unseen import UNSEEN, held_out_count
from ...models import DecoderConfig, LinearScaling, Llama3Scaling
from ...simulation.loop.arguments import check_without_noise
from ..config import RunConfig, parse_config
from ..prepare import Run, prepare
from ..registries import load_plugins
from ..texts import built
from .shared_base import shared_base

FOLDER = "FEDJAX_LLM_FOLDER"
"""The variable that tells a process of a federation the folder of its run."""
ABOUT = "federation.json"
"""The file in it that says what all processes build."""
FAILURE = "failure.txt"
"""The file in it that says why the server's app failed."""
RUN = "federation"
"""The name of the run, in whose folder each of them has one."""
_SIMULATED = "is simulated and not sent"
REFUSED = {
    "client_axis": "as each client runs on a node of its own",
    "faults": f"what {_SIMULATED} goes wrong by itself",
    "link": f"a network that {_SIMULATED}",
    "deadline": "but --timeout, in seconds that pass",
    "availability": f"a network that {_SIMULATED}",
    "buffer": "as a round waits for its clients",
    "attack": "as it is a client's own code that would attack",
    "sampler": "as cohorts have --clients clients",
    "gradients": "as noise for privacy is drawn in the simulation alone",
    "secret": "as noise for privacy is drawn in the simulation alone",
    "delta": "as noise for privacy is drawn in the simulation alone",
    "evaluate_every": "as the model is evaluated after the last round",
    "target_loss": "as the model is evaluated after the last round",
}
"""The fields of a configuration that say nothing to a federation, and why."""


def check_applies(config: RunConfig) -> None:
    """Refuse what a federation would have to ignore.

    Raises:
        ValueError: Naming the field.

    """
    for name, why in REFUSED.items():
        if (got := getattr(config, name)) != getattr(RunConfig(), name):
            raise ValueError(f"{name}: expected none over Flower, {why}, got {got!r}.")
    texts = parse_config(config).texts
    if texts["uplink"].call.name == "stages":
        raise ValueError(
            "uplink: expected one codec over Flower, as nodes build their app once, got "
            f"{config.uplink!r}."
        )
    if (text := texts.get("aggregate")) is not None:
        rule = built("aggregate", text, AGGREGATORS)
        if rule.noised is not None or rule.at_clients is not None:
            raise ValueError(
                f"aggregate: expected a rule without noise over Flower, {REFUSED['secret']}, got "
                f"{config.aggregate!r}."
            )


def drawn(config: RunConfig, nodes: int) -> RunConfig:
    """The configuration with as many training clients as nodes, unless it says how many it has.

    Clients that `unseen` holds out are drawn beside them, where it is a number or a share.
    """
    if config.population is not None:
        return config
    unseen, population = parse_config(config).texts["unseen"], nodes
    if unseen.call.name in ("share", "last"):
        chosen = built("unseen", unseen, UNSEEN)
        while population - held_out_count(chosen, [""] * population) < nodes:
            population += 1
    return dataclasses.replace(config, population=population)


def federated_run(config: RunConfig, *, cache: Path | None) -> Run:
    """Build a run, and refuse one that cannot run over Flower.

    Args:
        config: The configuration.
        cache: Folder for tokens.

    Raises:
        ValueError: Naming the field, what was expected and what was got.

    """
    check_applies(config)
    run = prepare(config, cache=cache)
    check_without_noise(algorithm_of(run), who="federate")
    return run


def algorithm_of(run: Run) -> FederatedAlgorithm:
    """The algorithm of a run.

    Raises:
        ValueError: For a split method, and one whose clients have models of their own.

    """
    if isinstance(run.algorithm, SplitMethod) or run.algorithm.personal:
        expected = "a method whose model is the server's alone"
        remedy = "fedjax-llm train simulates it"
        raise ValueError(message("federate", "algorithm", expected, run.config.algorithm, remedy))
    return run.algorithm


def run_folder() -> Path:
    """The folder of the federation that this process belongs to."""
    return Path(os.environ[FOLDER])


def opened() -> tuple[Path, Run, Mapping[str, Any]]:
    """The run of the federation that this process belongs to.

    Returns:
        Its folder, the run with the base that all processes share, and what `federation.json`
        says.

    """
    folder = run_folder()
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    load_plugins(about["plugins"])
    cache = about["cache"]
    run = prepare(read_config(about["config"]), cache=cache and Path(cache))
    task = run.task._replace(frozen=shared_base(run.task.frozen, folder))
    return folder, run._replace(task=task), about


def read_config(values: Mapping[str, Any]) -> RunConfig:
    """The configuration whose `dataclasses.asdict` went through JSON, which has lists for tuples.

    Args:
        values: What JSON gave.

    """
    decoder = {**values["decoder"], "layer_types": tuple(values["decoder"]["layer_types"])}
    if scaling := decoder["rope_scaling"]:
        kind = LinearScaling if scaling.keys() == {"factor"} else Llama3Scaling
        decoder["rope_scaling"] = kind(**scaling)
    return RunConfig(**{**values, "decoder": DecoderConfig(**decoder)})


def secure_sums(run: Run, threshold: int | None) -> Any:
    """The `SecureSums` of a run whose server needs sums alone; None for any other run.

    Args:
        run: The run.
        threshold: Neighbours of a client that must answer; None for more than half of them.

    Raises:
        ValueError: For a threshold out of range, and for one of another run.

    """
    from ...flower import SecureSums  # noqa: PLC0415 - needs the extra flower
    from ...flower.secure_sums import check_secure  # noqa: PLC0415

    algorithm = algorithm_of(run)
    if algorithm.sums is None:
        if threshold is not None:
            expected = 'none, as only --aggregate "secure_mean()" has sums'
            raise ValueError(message("federate", "threshold", expected, threshold))
        return None
    secure = SecureSums(run.config.clients, threshold)
    check_secure(algorithm, secure, who="federate")
    return secure


def batches_like(run: Run) -> PyTree:
    """The batches of one client, for their structure."""
    return batches_of_one(run.split.train, run.batching)
