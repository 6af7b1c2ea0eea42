"""Build the notebooks of examples/notebooks, and execute each with small settings.

    python -m tests.notebooks --out runs/notebooks --repository owner/name

Writes NAME.ipynb, as it can be opened, and NAME.executed.ipynb. `--repository` is where the
notebooks install the library from on Colab; without it they name OWNER/REPOSITORY.
"""

import argparse
import importlib.util
import time
from pathlib import Path

import jupytext

from tests.helpers.notebooks import ROOT, environment, kernel, notebook, with_settings

SCRIPTS = sorted((ROOT / "examples/notebooks").glob("*.py"))
NEED_FLOWER = ("simulation_to_federation",)
"""Notebooks that run only where Flower is installed."""
UNKNOWN = "OWNER/REPOSITORY"
SMALL = {
    "finetune_lora": "ROUNDS, CLIENTS, PEOPLE, ROWS = 1, 1, 3, 2",
    "first_frontier": "ROUNDS, CLIENTS, EVALUATE_ROWS = 1, 2, 64",
    "own_codec": "ROUNDS, CLIENTS, EVALUATE_ROWS = 1, 2, 64",
    "own_method": "ROUNDS, CLIENTS, EVALUATE_ROWS = 1, 4, 32",
    "own_model": "ROUNDS, CLIENTS, EXAMPLES = 30, 8, 200",
    "privacy_attacks": "ROUNDS, CLIENTS = 2, 13",
    "several_devices": "ROUNDS, CLIENTS = 1, 5",
    "simulation_to_federation": "ROUNDS, CLIENTS = 2, 2",
}
"""Settings for a quick run, by notebook."""


def built(script, repository=UNKNOWN):
    """The notebook of a script."""
    return notebook(script.read_text(encoding="utf-8").replace(UNKNOWN, repository))


def executed(script, folder):
    """The notebook with the outputs of its cells, run in a folder with small settings."""
    small = with_settings(built(script), SMALL[script.stem])
    kernel(small, folder).execute(env=environment())
    return small


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/notebooks"))
    parser.add_argument("--repository", default=UNKNOWN)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for script in SCRIPTS:
        path = args.out / f"{script.stem}.ipynb"
        jupytext.write(built(script, args.repository or UNKNOWN), path)
        if script.stem in NEED_FLOWER and importlib.util.find_spec("flwr") is None:
            print(f"{path}: not run, as flwr is not installed; make flower runs it", flush=True)
            continue
        began = time.perf_counter()
        jupytext.write(executed(script, args.out), path.with_suffix(".executed.ipynb"))
        print(f"{path}: every cell ran, in {time.perf_counter() - began:.0f} s", flush=True)
    if args.repository in ("", UNKNOWN):
        print(f"They name {UNKNOWN}; make notebooks REPOSITORY=owner/name names another.")


if __name__ == "__main__":
    main()
