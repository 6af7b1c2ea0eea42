"""CPU seconds of a message at a node: python -m tests.flower_messages [--cold | --long-lived]

One node trains a linear model of 54 parameters, so that nearly all of it is overhead: Python, JAX
and Flower. The CPU time of the node's processes in the rounds after the second, less what they use
while they wait for messages, is divided by the number of rounds. `--cold` starts a Python process
for each message, as Flower does; `--long-lived` has a client that stays connected, without a node.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from fedjax_llm.flower.loopback import Loopback

from .helpers.linear_app import APP, ENVIRONMENT, rows
from .helpers.long_lived import LongLived

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


def of_node(out, rounds, *, warm):
    """CPU seconds in the rounds after the second, seconds of these, and CPU share while idle."""
    with Loopback(out, warm=warm, environment=ENVIRONMENT) as loopback:
        loopback.start_nodes({"ann": {"client": "ann"}})
        groups = {each.pid for each in loopback.nodes["ann"].processes}
        time.sleep(IDLE_SECONDS / 2)  # until what starts has started
        before = time.monotonic(), cpu_seconds(groups)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(groups) - before[1]) / (time.monotonic() - before[0])
        run = loopback.run(APP, config=f'rounds={rounds} clients="ann"')
        used, seconds = after_the_second(out, rounds, groups, 0.1)
        run.wait()
    return used, seconds, idle


def of_client(out, rounds):
    """The same of a client that stays connected."""
    with LongLived(out, ("ann",)) as federation:
        server = federation.start_server(rounds)
        used, seconds = after_the_second(out, rounds, {federation.clients["ann"].pid}, 0.005)
        server.wait(60)
    return used, seconds, 0.0


def after_the_second(out, rounds, groups, pause):
    """CPU seconds of process groups in the rounds after the second, and seconds of these."""
    while len(rows(out)) < 2:
        time.sleep(pause)
    began = time.monotonic(), cpu_seconds(groups)
    while len(rows(out)) < rounds:
        time.sleep(pause)
    return cpu_seconds(groups) - began[1], time.monotonic() - began[0]


def main():
    parser = argparse.ArgumentParser()
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--cold", action="store_true")
    how.add_argument("--long-lived", action="store_true")
    parser.add_argument("--rounds", type=int, help="12 by default, 300 for a client that stays")
    args = parser.parse_args()
    rounds = args.rounds or (300 if args.long_lived else 12)
    with tempfile.TemporaryDirectory() as folder:
        if args.long_lived:
            used, seconds, idle = of_client(Path(folder), rounds)
        else:
            used, seconds, idle = of_node(Path(folder), rounds, warm=not args.cold)
    each = (used - idle * seconds) / (rounds - 2)
    cold = "a process for each message" if args.cold else "one process"
    what = "a client that stays connected" if args.long_lived else cold
    print(
        f"{what}: {each:.3g} CPU s a message, {seconds / (rounds - 2):.2g} s between two rounds, "
        f"{idle:.3f} CPU s a second while waiting"
    )


if __name__ == "__main__":
    main()
