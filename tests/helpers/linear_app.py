"""The app of `flower_app`: where it is, what its processes need, and what it leaves behind."""

import json
import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests/helpers/flower_app"
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "compression")]),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}


def rows(out):
    """The rows of the rounds that are done."""
    path = out / "server/run-linear/rounds.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
