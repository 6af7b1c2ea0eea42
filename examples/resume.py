"""A run that stops and goes on, to the bits of one that never stopped: python examples/resume.py

A minute on two cores. Needs `pip install 'fedjax-llm[demo]'`.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from fedjax_llm import RunConfig, train

CONFIG = RunConfig(
    rounds=6,
    clients=8,
    uplink="error_feedback(least_error_scale(eden(bits=1)))",
    faults="faults(dropout=0.2)",
    evaluate_rows=256,
)


def main(config=CONFIG):
    """Train at once and in two parts; return the digests of both models."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(config, out=Path(folder) / "whole")
        parts = Path(folder) / "parts"
        train(replace(config, rounds=config.rounds // 2), out=parts)
        resumed = train(config, out=parts, resume=True)
        lines = (parts / "rounds.jsonl").read_text().splitlines()
        rounds = [json.loads(line)["round"] for line in lines]
    print(f"rounds {rounds}; the same bits: {whole['digest'] == resumed['digest']}")
    return whole["digest"], resumed["digest"], rounds


if __name__ == "__main__":
    main()
