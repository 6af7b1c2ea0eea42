"""What goes wrong in a federation, with real processes on the loopback interface.

Each federation ends with the bits of the simulation in which the clients that did not count dropped
out of the same rounds. `tests/federation.py` kills a node and the server's app.
"""

import json
import os
import shutil
import socket
import time

import pytest

from fedjax_llm.flower import federate
from fedjax_llm.flower.client_files import client_folder
from fedjax_llm.flower.loopback import HOST, Loopback
from fedjax_llm.flower.server_app import last_standing
from fedjax_llm.simulation.digest import digest

from ...helpers.fault_rounds import (
    APP,
    ENVIRONMENT,
    HUGE,
    METHODS,
    PART,
    SEED,
    TIMES,
    open_gate,
    row_count,
    rows,
    simulated,
)
from ...helpers.flower_nodes import nodes
from ...helpers.flower_task import NAMES, PARAMS, batches
from ...helpers.in_memory_grid import InMemoryGrid

SECONDS = 600
"""Most that any wait may take."""


def until(done, process):
    """Wait until something is done, while a process runs."""
    end = time.monotonic() + SECONDS
    while not done():
        assert process.poll() is None, process.args
        assert time.monotonic() < end
        time.sleep(0.05)


def failures(out):
    """The clients that failed, by round, with the reasons."""
    return {row["round"]: row["failed"] for row in rows(out) if row["failed"]}


def trained(out, method="fed_avg"):
    """The round of the newest checkpoint, and the digest of its parameters."""
    last = last_standing(METHODS[method](), PARAMS, folder=out / "server", run="faulty", seed=SEED)
    return last.round, digest(last.state.params)


def check_rounds(out, without, rounds, method="fed_avg"):
    """Who failed when, and the bits of the simulation without them."""
    assert {number: sorted(reasons) for number, reasons in failures(out).items()} == without
    for row in rows(out):
        left = [name for name in NAMES if name not in without.get(row["round"], [])]
        assert row["counted"] == left
    assert trained(out, method) == (rounds, simulated(method, rounds, json.dumps(without)))


FAULTS = {
    (2, "bob"): ("garbage", "expected a message that starts with b'FJ'"),
    (2, "cyn"): ("another", "uplink: stype: expected 'fedjax-llm."),
    (3, "bob"): ("replayed", "round: round: expected 3, got 2"),
    (3, "cyn"): ("huge", "reply: expected at most"),
    (3, "dan"): ("elsewhere", "uplink: expected a record of arrays, got none"),
    (4, "bob"): ("forged", "wire.loads: data: expected structure"),
    (4, "cyn"): ("repeated", f"reply: expected at most 65570 bytes, got {PART * TIMES} or more"),
    (4, "dan"): ("formless", "reply: expected a message of Flower, got another"),
}
"""What a client sends in a round instead of its update, and the reason that is given."""


@pytest.mark.slow
def test_hostile_clients_are_named_and_the_round_goes_on(tmp_path):
    """Neither do they cost the server the memory that their messages claim."""

    def config(name):
        ordered = [f"{r}:{fault}" for (r, who), (fault, _) in FAULTS.items() if who == name]
        return {"client": name, "faults": " ".join(ordered)}

    with Loopback(tmp_path, environment=ENVIRONMENT) as loopback:
        loopback.start_nodes({name: config(name) for name in NAMES})
        run = loopback.run(APP, config="rounds=5")
        until(lambda: row_count(tmp_path) >= 1, run)
        with socket.create_connection((HOST, loopback.port)) as garbage:
            garbage.sendall(os.urandom(2**16))
        run.wait(SECONDS)
        log = (tmp_path / "run.log").read_text()
    found = failures(tmp_path)
    for (number, name), (_, reason) in FAULTS.items():
        assert reason in found[number][name]
        assert f"round {number}: {name} did not count: {found[number][name]}"[:70] in log
    without = {2: ["bob", "cyn"], 3: ["bob", "cyn", "dan"], 4: ["bob", "cyn", "dan"]}
    check_rounds(tmp_path, without, 5)
    most = [int(line) * 1024 for line in (tmp_path / "memory.txt").read_text().split()]
    assert most[-1] - most[0] < HUGE / 2


def another_runs_state(folder, name):
    """A client's folder after two rounds of a run of the same name with another seed."""
    algorithm = METHODS["fed_avg"]()
    grid = InMemoryGrid(nodes(algorithm, folder))
    options = {"run": "faulty", "rounds": 2, "clients": len(NAMES), "seed": SEED + 1}
    assert len(list(federate(grid, algorithm, PARAMS, (), batches(), NAMES, **options))) == 2
    return client_folder(folder, "faulty", name)


@pytest.mark.slow
def test_a_late_client_joins_and_a_lost_state_is_refused_until_it_is_back(tmp_path):
    """Dan comes after round 1. For round 3, bob's folder is gone and cyn's is of another run."""
    own = {name: client_folder(tmp_path / "clients", "faulty", name) for name in NAMES}
    other = another_runs_state(tmp_path / "other", "cyn")
    with Loopback(tmp_path, environment=ENVIRONMENT) as loopback:
        loopback.start_nodes({name: {"client": name} for name in NAMES[:3]})
        open_gate(tmp_path, 1, nodes=3)
        run = loopback.run(APP, config='rounds=4 gates="1 2 3 4"')
        until(lambda: row_count(tmp_path) == 1, run)
        loopback.start_nodes({"dan": {"client": "dan"}})
        open_gate(tmp_path, 2, nodes=4)
        until(lambda: row_count(tmp_path) == 2, run)
        for name in ("bob", "cyn"):
            own[name].rename(tmp_path / f"kept-{name}")
        shutil.copytree(other, own["cyn"])
        open_gate(tmp_path, 3, nodes=4)
        until(lambda: row_count(tmp_path) == 3, run)
        shutil.rmtree(own["cyn"])
        for name in ("bob", "cyn"):
            (tmp_path / f"kept-{name}").rename(own[name])
        open_gate(tmp_path, 4, nodes=4)
        run.wait(SECONDS)
    found = failures(tmp_path)
    assert "node: expected one node of this client, got 0" in found[1]["dan"]
    reasons = {
        "bob": "expected the state after round 2, which the server counted last, got that of round",
        "cyn": "got one of another run of the same name",
    }
    for name, reason in reasons.items():
        assert reason in found[3][name]
        assert reason in (tmp_path / f"node-{name}.log").read_text()
    check_rounds(tmp_path, {1: ["dan"], 3: ["bob", "cyn"]}, 4)


@pytest.mark.slow
def test_late_clients_replay_what_they_missed_or_are_refused(tmp_path):
    """DeComFL with a window of two rounds: cyn misses one of them, dan four."""
    config = 'rounds=6 gates="1 2 5" method="decomfl"'
    with Loopback(tmp_path, environment=ENVIRONMENT) as loopback:
        loopback.start_nodes({name: {"client": name} for name in NAMES[:2]})
        open_gate(tmp_path, 1, nodes=2)
        run = loopback.run(APP, config=config)
        for missed, name in ((1, "cyn"), (4, "dan")):
            until(lambda missed=missed: row_count(tmp_path) == missed, run)
            loopback.start_nodes({name: {"client": name}})
            open_gate(tmp_path, missed + 1, nodes=3 if name == "cyn" else 4)
        run.wait(SECONDS)
    found = failures(tmp_path)
    for number in (5, 6):
        assert "it has missed more rounds than the method replays" in found[number]["dan"]
    without = {1: ["cyn", "dan"], **{number: ["dan"] for number in range(2, 7)}}
    check_rounds(tmp_path, without, 6, "decomfl")


@pytest.mark.slow
@pytest.mark.parametrize("database", [True, False])
def test_a_superlink_that_is_killed_is_started_again_and_the_run_resumes(database, tmp_path):
    """With a database the nodes stay; without one they end and are started again."""
    options = ("--database", str(tmp_path / "superlink.db")) if database else ()
    configs = {name: {"client": name} for name in NAMES}
    logs = {name: tmp_path / f"clients/run-faulty/client-{name}/rounds.jsonl" for name in NAMES}
    with Loopback(tmp_path, environment=ENVIRONMENT, superlink_options=options) as loopback:
        loopback.start_nodes(configs)
        run = loopback.run(APP, config="rounds=3")
        until(lambda: logs["ann"].exists() and '"round": 2' in logs["ann"].read_text(), run)
        loopback.superlink.kill()
        loopback.superlink.wait()
        assert run.wait(SECONDS) != 0
        assert "Connection to the SuperLink is unavailable" in (tmp_path / "run.log").read_text()
        loopback.start_superlink()
        if not database:
            for node in loopback.nodes.values():
                node.supernode.wait(SECONDS)
                node.kill()
            loopback.start_nodes(configs)
        assert loopback.run(APP, config="rounds=3").wait(SECONDS) == 0
        assert not any(node.ended for node in loopback.nodes.values())
    check_rounds(tmp_path, {}, 3)
