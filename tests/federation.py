"""A federation of real processes on the loopback interface, disturbed, against the simulation.

    python -m tests.federation --out runs/federation

A SuperLink and four SuperNodes train a LoRA with error feedback, whose residuals lie at the
clients. After round 1 a node is killed, which Flower gives up after some 72 seconds; in round 3 the
server's app is killed; then the node is started again and the run resumes. Each round must have the
bytes, and the last one the bits, of the simulation in which that client dropped out of the same
rounds. Prints three counts of the same bytes: our ledger, Flower's own counters and those of the
sockets between nodes and SuperLink. Ends with status 1 where anything does not fit.
"""

import argparse
import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import jax.numpy as jnp

from fedjax_llm import DecoderConfig, RunConfig, chunked, simulate, total_bytes
from fedjax_llm.flower import keeper
from fedjax_llm.flower.client_files import client_folder
from fedjax_llm.flower.loopback import Loopback
from fedjax_llm.flower.server_app import last_standing, rows_file
from fedjax_llm.runs.federated.local import environment, node_name, write_app
from fedjax_llm.runs.federated.parts import RUN, federated_run
from fedjax_llm.simulation import Conditions, Fate, Faults
from fedjax_llm.simulation.digest import digest

from .helpers.counting_proxy import CountingProxy

ROLES = "hamlet/HAMLET, hamlet/HORATIO, macbeth/MACBETH, macbeth/BANQUO"
CONFIG = RunConfig(
    rounds=5,
    clients=4,
    local_steps=2,
    batch=4,
    seq=32,
    adapter="lora(rank=8)",
    uplink="error_feedback(top_k(fraction=0.25))",
    data=f"shakespeare(roles='{ROLES}')",
    unseen="share(0)",
    decoder=DecoderConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2
    ),
)
LOST = 2
"""The round in which a node is killed."""
HEADERS = 2000
"""Most bytes that HTTP and Flower's protocol add to a request, in each direction."""


def say(what):
    print(f"{time.monotonic() - BEGAN:4.0f} s  {what}", flush=True)


def wait(what, done, *, seconds, process):
    """Wait until something is done; raise where it takes too long or the process has ended."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"{what}: not after {seconds} seconds"
        assert process.poll() is None, f"{what}: process {process.args} ended"
        time.sleep(0.02)
    say(what)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show_logs(out):
    """The end of each process's log, for a run that failed."""
    for path in sorted(out.glob("*.log")):
        print(f"== {path.name}", *path.read_text(errors="replace").splitlines()[-12:], sep="\n")


def programs(loopback, name):
    """The ids of the federation's processes that run a program."""
    found = []
    for process in keeper.marked(loopback.mark):
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_text().split("\0")[:2]
            found += [process] * any(Path(word).name == name for word in words)
    return found


def disturbed(run, out, patience, meanwhile):
    """Run it over Flower, with a node and the server's app killed; the rows and the counters."""
    names, killed = run.split.train.names, run.split.train.names[-1]
    rows = rows_file(out / "server", RUN)
    app = write_app(run, out)
    configs = {node_name(name): {"client": name} for name in names}

    def trained(name):
        lines = read_lines(client_folder(out / "clients", RUN, name) / "rounds.jsonl")
        return lines[-1]["round"] if lines else 0

    def until(what, done, seconds, process):
        wait(what, done, seconds=seconds * patience, process=process)

    federation = Loopback(out, cwd=Path.cwd(), environment=environment(out))
    with federation as loopback, CountingProxy(loopback.port) as proxy:
        loopback.start_nodes(configs, superlink=proxy.address)
        first = loopback.run(app)
        until("round 1", lambda: len(read_lines(rows)) == 1, 200, first)
        loopback.nodes[node_name(killed)].kill()
        assert trained(killed) == 1
        meanwhile()
        second = (rows.with_name("checkpoints") / "2").exists
        until(f"round 2, in which the node of {killed} was killed", second, 120, first)
        until("a client has trained in round 3", lambda: trained(names[0]) == 3, 120, first)
        for process in programs(loopback, "flwr-serverapp"):
            os.kill(process, signal.SIGKILL)
        first.terminate()
        first.wait()
        assert len(read_lines(rows)) == 2
        loopback.stop_run(loopback.runs()[0]["run-id"])
        again = node_name(killed)
        loopback.start_nodes({again: configs[again]}, superlink=proxy.address)
        say("the server's app was killed in round 3, and the node started again")
        rest = loopback.run(app)
        rest.wait(200 * patience)
        say("the rest of the run")
        counters = loopback.runs()
    return read_lines(rows), counters, proxy


def simulated(run):
    """The same rounds in the simulation, in which the client of the killed node dropped out."""
    killed = len(run.split.train.names) - 1

    def fate(key, number, client):
        nothing = jnp.zeros((), bool)
        return Fate((number == LOST) & (client == killed), nothing, nothing, jnp.float32(1))

    return list(
        simulate(
            *(run.algorithm, run.task.params, run.task.frozen, run.split.train, run.batching),
            rounds=run.config.rounds,
            clients=run.config.clients,
            seed=run.config.seed,
            client_axis=chunked(1),
            conditions=Conditions(Faults(fate)),
        )
    )


def check(run, out, rows, counters, proxy, rounds):
    """Compare the rounds with the simulation's, and the three counts of bytes."""
    killed = run.split.train.names[-1]
    failed = {row["round"]: list(row["failed"]) for row in rows if row["failed"]}
    assert failed == {LOST: [killed]}, [row["failed"] for row in rows]
    standing = last_standing(
        *(run.algorithm, run.task.params), folder=out / "server", run=RUN, seed=run.config.seed
    )
    for row, theirs in zip(rows, rounds, strict=True):
        for way in ("up", "down"):
            assert row[f"{way}_bytes"] == total_bytes(theirs.messages, way), (row, way)
    ours, theirs = (digest(params) for params in (standing.state.params, rounds[-1].state.params))
    print(f"parameters after round {standing.round}: {ours[:16]}, simulation: {theirs[:16]}")
    messages = sum(len(row["by_client"]) for row in rows)
    print(f"{messages} messages to clients in {len(rows)} rounds, {proxy.requests} requests")
    print(f"{'':8}{'our messages':>14}{'in Flower':>14}{'Flower counts':>16}{'sockets':>12}")
    for way, flower_way in (("up", "inbound"), ("down", "outbound")):
        ledger = sum(row[f"{way}_bytes"] for row in rows)
        inside = ledger + sum(row[f"{way}_envelope_bytes"] for row in rows)
        flower = sum(each["network-traffic"][f"{flower_way}-bytes"] for each in counters)
        socket = getattr(proxy, way)
        print(f"{way:8}{ledger:14,}{inside:14,}{flower:16,}{socket:12,}")
        repeated = inside / len(rows)  # of the round that was run twice
        assert ledger < inside < flower < socket, (ledger, inside, flower, socket)
        assert flower - inside < 1.5 * repeated + HEADERS * 2 * messages, (flower, inside)
        assert socket - flower < HEADERS * proxy.requests, (socket, flower)
    assert ours == theirs, "the parameters are not those of the simulation"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/federation"))
    parser.add_argument("--patience", type=float, default=1.0, help="more on a busy machine")
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    run = federated_run(CONFIG, cache=None)
    with ThreadPoolExecutor(1) as thread:
        rounds: list = []
        try:
            found = disturbed(
                run, args.out, args.patience, lambda: rounds.append(thread.submit(simulated, run))
            )
            check(run, args.out, *found, rounds[0].result())
        except BaseException:
            show_logs(args.out)
            raise
    print(f"{time.monotonic() - BEGAN:.0f} s: bits and bytes are those of the simulation")


BEGAN = time.monotonic()
if __name__ == "__main__":
    main()
