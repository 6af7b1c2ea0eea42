"""Faults and bad input with real processes on the loopback interface; each test ends by itself."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from fedjax_llm.flower.loopback import Loopback, Secured

from ...helpers.disturbed import APP, ENVIRONMENT, ROOT, rows

SECONDS = 400
"""Most that any wait may take."""


def wait_for(done, what):
    until = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < until, what
        time.sleep(0.1)


@pytest.mark.slow
def test_bad_clients_fail_by_name_and_a_restarted_superlink_goes_on(tmp_path):
    """Bob misbehaves in turn, cyn loses her state, dan joins late; then the SuperLink is killed."""
    bad = ["garbage", "another model's", "too much", "last round's", "raise"]
    configs = {name: {"client": name} for name in ("ann", "bob", "cyn", "dan")}
    configs["bob"] |= {f"round-{number}": what for number, what in enumerate(bad, start=2)}
    configs["cyn"]["round-3"] = "lost state"
    options = ("--database", str(tmp_path / "superlink.db"))
    federation = Loopback(tmp_path, environment=ENVIRONMENT, superlink_options=options)
    with federation as loopback:
        late = {"dan": configs.pop("dan")}
        loopback.start_nodes(configs)
        run = loopback.run(APP, config="rounds=7 join-seconds=1")
        wait_for(lambda: rows(tmp_path), "round 1")
        loopback.start_nodes(late)
        run.wait(SECONDS)
        first = rows(tmp_path)
        os.killpg(loopback.superlink.pid, signal.SIGKILL)
        loopback.superlink.wait()
        loopback.start_superlink()
        loopback.run(APP, config="rounds=8").wait(SECONDS)
        assert not any(node.ended for node in loopback.nodes.values())
    done = rows(tmp_path)
    assert done[:7] == first
    assert [row["round"] for row in done] == [*range(1, 9)]
    assert list(done[0]["failed"]) == ["dan"]
    assert "expected one node of this client, got 0" in done[0]["failed"]["dan"]
    assert done[7]["counted"] == ["ann", "bob", "dan"]  # who joined late, and who misbehaved before
    reasons = [row["failed"].get("bob", "") for row in done]
    for number, reason in {
        2: "expected a message of",
        3: "server and clients need the same codec, model and version",
        4: "bytes, got 67108864",
        5: "round: round: expected 5, got 4",
        6: "MemoryError",
    }.items():
        assert reason in reasons[number - 1], (number, reasons[number - 1])
    assert not reasons[0] + reasons[6] + reasons[7]
    lost = [row["failed"].get("cyn", "") for row in done]
    assert not any(lost[:2])
    assert all("cyn/state: expected the state after round 2" in each for each in lost[2:]), lost
    assert not any("ann" in row["failed"] for row in done)


def made_by_the_recipe(folder, names):
    """The files that the commands of docs/flower.md make."""
    folder.mkdir()
    section = (ROOT / "docs/flower.md").read_text().split("## On several machines")[1]
    certificates, key = re.findall(r"```\n(.*?)```", section, re.DOTALL)[:2]
    for commands in (certificates, *(key.replace("ann", name) for name in names)):
        subprocess.run(["/bin/sh", "-euc", commands], cwd=folder, check=True, capture_output=True)  # noqa: S603 - our own page
    files = [folder / name for name in ("ca.crt", "superlink.crt", "superlink.key")]
    return Secured(*files, {name: folder / name for name in names})


@pytest.mark.slow
def test_only_registered_nodes_take_part_over_tls(tmp_path):
    names = ("ann", "bob", "eve")
    secured = made_by_the_recipe(tmp_path / "keys", names)
    with Loopback(tmp_path, environment=ENVIRONMENT, secured=secured) as loopback:
        for name in names[:2]:
            loopback.register(name)
        loopback.start_nodes({name: {"client": name} for name in names[:2]})
        with suppress(ChildProcessError):  # where she ended sooner than she was looked for
            loopback.start_nodes({"eve": {"client": "eve"}})
        assert loopback.nodes["eve"].supernode.wait(SECONDS) != 0
        assert "305" in (tmp_path / "node-eve.log").read_text()
        config = 'rounds=2 clients="ann bob"'
        loopback.run(APP, config=config).wait(SECONDS)
    assert [row["counted"] for row in rows(tmp_path)] == [["ann", "bob"]] * 2
