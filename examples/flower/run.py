"""Run the federation of this folder on one machine: python examples/flower/run.py --out runs/flower

It starts a SuperLink and three SuperNodes on the loopback interface, runs the app, stops them all,
and compares the parameters of each round with those of the simulation.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from letters.federation import BATCHING, CLIENTS, NAMES, ROUNDS, SEED, algorithm, task

from fedjax_llm import chunked, simulate, total_bytes
from fedjax_llm.data import byte_corpus
from fedjax_llm.flower.loopback import Loopback
from fedjax_llm.simulation.digest import digest

HERE = Path(__file__).parent.absolute()


def federate(out, *, warm):
    """Run the app once over a SuperLink and a SuperNode for each name, with cwd `out`."""
    configs = {name: {"client": name, "text": str(HERE / f"data/{name}.txt")} for name in NAMES}
    with Loopback(out, warm=warm) as loopback:
        loopback.start_nodes(configs)
        loopback.run(HERE).wait()


def simulated():
    """The digests of the same rounds in the simulation."""
    corpus = byte_corpus({name: (HERE / "data" / f"{name}.txt").read_text() for name in NAMES})
    rounds = simulate(
        *(algorithm, task.params, task.frozen, corpus, BATCHING),
        rounds=ROUNDS,
        clients=CLIENTS,
        seed=SEED,
        client_axis=chunked(1),
    )
    return [
        {"round": r.round, "params": digest(r.state.params), "up": total_bytes(r.messages, "up")}
        for r in rounds
    ]


def main():
    """Run, show the rows, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/flower"))
    parser.add_argument(
        "--cold", action="store_true", help="a Python process for each message, as Flower has it"
    )
    args = parser.parse_args()
    out = args.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    federate(out, warm=False if args.cold else None)
    rows_file = out / "server" / "run-letters" / "rounds.jsonl"
    if not rows_file.exists():
        sys.exit(f"no round was completed; see {out / 'run.log'} and the other logs there")
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    digests = [json.loads(line) for line in (out / "digests.jsonl").read_text().splitlines()]
    for row in rows:
        print(json.dumps(row))
    same = [
        (mine["params"], row["up_bytes"]) == (theirs["params"], theirs["up"])
        for mine, row, theirs in zip(digests, rows, simulated(), strict=True)
    ]
    print(f"{time.monotonic() - begun:.0f} s; parameters and bytes of the simulation: {same}")
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
