"""CPU seconds of a message at a node: python -m tests.flower_messages [--cold]

One node trains a linear model of 54 parameters, so that nearly all of it is overhead: Python, JAX
and Flower. The CPU time of the node's processes in the rounds after the second, less what they use
while they wait for messages, is divided by the number of rounds. `--cold` starts a Python process
for each message, as Flower does.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from fedjax_llm.flower.loopback import Loopback

from .helpers.linear_app import APP, ENVIRONMENT, rows

IDLE_SECONDS = 20.0


def cpu_seconds(groups):
    """CPU time of all processes of some process groups, and of those that ended."""
    ticks = 0
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[2]) in groups:
                ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    cold, rounds = args.cold, args.rounds
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        with Loopback(out, warm=not cold, environment=ENVIRONMENT) as loopback:
            loopback.start_nodes({"ann": {"client": "ann"}})
            groups = {each.pid for each in loopback.nodes["ann"].processes}
            time.sleep(IDLE_SECONDS / 2)  # until what starts has started
            before = time.monotonic(), cpu_seconds(groups)
            time.sleep(IDLE_SECONDS)
            idle = (cpu_seconds(groups) - before[1]) / (time.monotonic() - before[0])
            run = loopback.run(APP, config=f'rounds={rounds} clients="ann"')
            while len(rows(out)) < 2:
                time.sleep(0.1)
            began = time.monotonic(), cpu_seconds(groups)
            while len(rows(out)) < rounds:
                time.sleep(0.1)
            seconds, used = time.monotonic() - began[0], cpu_seconds(groups) - began[1]
            run.wait()
    each = (used - idle * seconds) / (rounds - 2)
    what = "a process for each message" if cold else "one process"
    print(
        f"{what}: {each:.2f} CPU s a message, {seconds / (rounds - 2):.1f} s between two rounds, "
        f"{idle:.3f} CPU s a second while waiting"
    )


if __name__ == "__main__":
    main()
