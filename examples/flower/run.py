"""Run the federation of this folder on one machine: python examples/flower/run.py --out runs/flower

It starts a SuperLink and three SuperNodes on the loopback interface, runs the app, stops them all,
and compares the parameters of each round with those of the simulation.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from letters.federation import BATCHING, CLIENTS, NAMES, ROUNDS, SEED, algorithm, task

from fedjax_llm import chunked, simulate, total_bytes
from fedjax_llm.data import byte_corpus
from fedjax_llm.simulation.digest import digest

HERE = Path(__file__).parent.absolute()
BIN = Path(sys.executable).parent


def environment(out):
    """What all processes inherit: no telemetry, no look for updates, Flower's files in `out`."""
    return {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "FLWR_HOME": str(out / "flwr"),
        "JAX_PLATFORMS": "cpu",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }


def free_ports(count):
    """Ports of the loopback interface that nothing listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(port, process, seconds=120):
    """Wait until something listens on a port."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"nothing listens on port {port} after {seconds} seconds")


def stop(processes):
    """End processes by their ids, in this order: SIGTERM, and SIGKILL after 15 seconds."""
    for each in processes:
        each.terminate()
        try:
            each.wait(15)
        except subprocess.TimeoutExpired:
            each.kill()
            each.wait()


def federate(out, names, *, app=HERE, data=HERE / "data", seconds=600):
    """Run the app once over a SuperLink and a SuperNode for each name, with cwd `out`."""
    out.mkdir(parents=True, exist_ok=True)
    env = environment(out)
    home = out / "flwr"
    home.mkdir(exist_ok=True)
    superlink, *node_ports = free_ports(1 + len(names))
    address = f"127.0.0.1:{superlink}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "loop"\n\n[superlink.loop]\naddress = "{address}"\n'
        "insecure = true\n"
    )

    def start(log, *command):
        with (out / log).open("a") as file:
            return subprocess.Popen(
                command, cwd=out, env=env, stdout=file, stderr=subprocess.STDOUT
            )

    link = start(
        "superlink.log",
        *(BIN / "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(superlink)),
        "--disable-runtime-dependency-installation",
    )
    nodes = []
    try:
        wait_for(superlink, link)
        for name, port in zip(names, node_ports, strict=True):
            config = f'client="{name}" text="{data / name}.txt"'
            nodes.append(
                start(
                    f"node-{name}.log",
                    *(BIN / "flower-supernode", "--insecure", "--superlink", address),
                    *("--host", "127.0.0.1", "--port", str(port), "--node-config", config),
                )
            )
        for node, port in zip(nodes, node_ports, strict=True):
            wait_for(port, node)
        done = subprocess.run(
            [BIN / "flwr", "run", app, "loop", "--stream"],
            cwd=out,
            env=env,
            timeout=seconds,
            capture_output=True,
            text=True,
            check=False,
        )
        (out / "run.log").write_text(done.stdout + done.stderr)
    finally:
        stop([*nodes, link])


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
    out = parser.parse_args().out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    federate(out, NAMES)
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
