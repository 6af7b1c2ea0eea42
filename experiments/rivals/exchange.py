"""What `run.py` and a rival exchange: arrays in `.npz` files, and a line on stdout for each round.

Needs NumPy alone, as the rivals' environments share nothing else.
"""

import functools
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

KERNELS = ("q", "k", "v", "o", "gate", "up", "down")
"""Names of a block's products, whose kernels are `[layers, inputs, outputs]`."""
SCALES = ("before_attention", "before_mlp")
"""Names of a block's norms, `[layers, width]`. Further parameters: `embedding` and `norm`."""


class Work(NamedTuple):
    """The work of a run, the same for every rival.

    Attributes:
        params: Initial parameters by name.
        rows: The tokens of each step, each row with one more than it has targets:
            `[rounds, clients, steps, batch, seq + 1]`. All clients weigh the same.
        heads: Attention heads.
        theta: Base of the rotary frequencies.
        epsilon: Of the norms.
        rate: Learning rate of the clients' SGD.

    """

    params: dict[str, np.ndarray]
    rows: np.ndarray
    heads: int
    theta: float
    epsilon: float
    rate: float


def write_work(path: Path, work: Work) -> None:
    rest = {name: value for name, value in work._asdict().items() if name != "params"}
    np.savez(path, **rest, **{f"params/{name}": value for name, value in work.params.items()})


@functools.cache
def read_work(path: Path) -> Work:
    with np.load(path, allow_pickle=False) as file:
        params = {n.removeprefix("params/"): file[n] for n in file if n.startswith("params/")}
        numbers = (file[name].item() for name in ("heads", "theta", "epsilon", "rate"))
        return Work(params, file["rows"], *numbers)


def read_params(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def given_work() -> Work:
    """The work that this process was started for: its first argument."""
    return read_work(Path(sys.argv[1]))


def end_round() -> None:
    """Say that a round has ended: the server's new parameters are computed."""
    print(json.dumps({"event": "round"}), flush=True)


def finish(params: dict[str, np.ndarray], *packages: str) -> None:
    """Write the final parameters, and say with which versions they were computed."""
    np.savez(Path(sys.argv[2]), **params)
    versions = {"python": sys.version.split()[0], **{each: version(each) for each in packages}}
    print(json.dumps({"event": "end", "versions": versions}), flush=True)
