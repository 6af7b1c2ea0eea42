"""A federation's processes end with the process that started them, however it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import flwr
import pytest

from fedjax_llm.flower import keeper
from fedjax_llm.flower.loopback import Loopback
from fedjax_llm.flower.worker import Worker
from fedjax_llm.secure_aggregation import Setup
from fedjax_llm.secure_aggregation.messages import Advertised, Revealed, Shared, message_bytes

from ...helpers.commands import ROLES
from ...helpers.gguf_files import write_gguf
from ...helpers.processes import python

HOLD = """
import pathlib, sys, time
from fedjax_llm.flower.loopback import Loopback
with Loopback(pathlib.Path(sys.argv[1])) as loopback:
    loopback.start("one", "sleep", "1000")
    loopback.start("two", "setsid", "sleep", "1000")
    loopback.start("three", "sh", "-c", "trap '' TERM; while true; do sleep 1; done")
    print(loopback.mark, flush=True)
    {then}
"""
SMALL = [
    *("--local", "2", "--clients", "2", "--local-steps", "2", "--batch", "2", "--seq", "32"),
    *("--hidden-size", "16", "--intermediate-size", "24", "--num-hidden-layers", "1"),
    *("--num-attention-heads", "2", "--num-key-value-heads", "1", "--rounds", "3"),
    *("--data", f"shakespeare(roles='{ROLES[0]}, {ROLES[1]}')"),
    *("--uplink", "error_feedback(top_k(fraction=0.1))", "--compilation-cache", "off"),
]


def none_left(mark, seconds=30):
    until = time.monotonic() + seconds
    while left := list(keeper.marked(mark)):
        assert time.monotonic() < until, left
        time.sleep(0.1)
    return True


def test_an_unknown_version_of_flower_is_named(monkeypatch, tmp_path):
    """The SuperNodes then start a process for each message, and a worker refuses."""
    monkeypatch.setattr(flwr, "__version__", "9.9.9")
    with pytest.warns(UserWarning, match=r"Loopback: flwr: expected 1\.42\.\*.*got 9\.9\.9"):
        assert not Loopback(tmp_path).warm
    assert not Loopback(tmp_path, warm=False).warm
    with pytest.raises(RuntimeError, match=r"worker: flwr: expected 1\.42\.\*, got 9\.9\.9"):
        Worker("127.0.0.1:1")


def sleeper(mark, first="pass"):
    """A process with a mark that says when it has begun to sleep."""
    code = f"import signal, time; {first}; print(1, flush=True); time.sleep(1000)"
    process = subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-I", "-S", "-c", code],
        env={**os.environ, keeper.MARK: mark},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    process.stdout.readline()
    return process


def test_the_keeper_ends_marked_processes_alone_even_those_that_refuse(monkeypatch):
    monkeypatch.setattr(keeper, "GRACE", 1.0)
    refuse = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with sleeper("own") as first, sleeper("own", refuse) as second, sleeper("other") as third:
        keeper.end("own")
        assert (first.wait(), second.wait()) == (-signal.SIGTERM, -signal.SIGKILL)
        assert third.poll() is None
        third.kill()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "error"])
def test_no_process_is_left(end, tmp_path):
    then = "1 / 0" if end == "error" else "time.sleep(1000)"
    process = python("-c", HOLD.format(then=then), str(tmp_path))
    mark = process.stdout.readline().strip()
    if end != "error":
        assert len(list(keeper.marked(mark))) >= 4
        process.send_signal(getattr(signal, end))
    _, error = process.communicate(timeout=60)
    assert none_left(mark)
    assert ("ZeroDivisionError" in error) == (end == "error")


def rows(out):
    path = out / "server/run-federation/rounds.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def marks(folder):
    """The marks of the processes that belong to a folder's federation."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            words = dict(
                e.split("=", 1) for e in path.read_text(errors="replace").split("\0") if "=" in e
            )
            if words.get("FEDJAX_LLM_FOLDER") == str(folder):
                found.add(words[keeper.MARK])
    return found


def superlink(mark):
    """The id of a federation's SuperLink."""
    for process in keeper.marked(mark):
        words = Path(f"/proc/{process}/cmdline").read_text().split("\0")[:2]
        if any(Path(word).name == "flower-superlink" for word in words):
            return process
    raise AssertionError(mark)


def federated_and_trained(folder, flags):
    """The summaries of `federate` and of the same run with `train`."""
    env = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    alone = {"--population": flags["--local"], "--client-axis": "chunked(size=1)"}
    summaries = []
    for command, changes in (("federate", {}), ("train", alone)):
        given = {k: v for k, v in (flags | changes).items() if (command, k) != ("train", "--local")}
        out = folder / command
        words = (command, "--out", str(out), *(each for pair in given.items() for each in pair))
        script = f"import sys\nsys.argv[1:] = {words!r}\nfrom fedjax_llm.cli import main\nmain()"
        process = python("-c", script, env=env)
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
        summaries.append(json.loads((out / "summary.json").read_text()))
    return summaries


@pytest.mark.slow
def test_secure_sums_over_sockets_end_at_the_digest_of_train(tmp_path):
    """A SuperLink and three nodes; the server is sent masked integers, keys and shares alone."""
    flags = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    flags |= {"--local": "3", "--clients": "3", "--rounds": "2"}
    flags |= {"--data": f"shakespeare(roles='{', '.join(ROLES[:3])}')"}
    flags |= {"--uplink": "error_feedback(fixed_point(clip=0.05, bits=10, clients=3))"}
    flags |= {"--aggregate": "secure_mean()"}
    ours, simulated = federated_and_trained(tmp_path, flags)
    assert ours["digest"] == simulated["digest"]
    over = ours["uplink_bytes"] - simulated["uplink_bytes"]
    setup = Setup(bytes(16), 1, 10, 3, 2, 2)
    sizes = [message_bytes(kind, setup, 2) for kind in (Advertised, Shared, Revealed)]
    assert over == 2 * 3 * (sum(sizes) + 16 + 4)  # the integers' message also names round, client


@pytest.mark.slow
def test_a_pretrained_model_over_sockets_ends_at_the_digest_of_train(tmp_path):
    model = tmp_path / "tiny.gguf"
    write_gguf(model)
    flags = {"--model": str(model), "--adapter": "lora(rank=2)", "--local": "2", "--clients": "2"}
    flags |= {"--data": f"shakespeare(roles='{', '.join(ROLES[:2])}')", "--unseen": "share(0.0)"}
    flags |= {"--rounds": "2", "--local-steps": "1", "--batch": "2", "--seq": "16"}
    flags |= {"--client-optimizer": "sgd(0.1)", "--uplink": "eden(bits=4)"}
    ours, simulated = federated_and_trained(tmp_path, flags)
    assert ours["digest"] == simulated["digest"]
    assert ours["uplink_bytes"] == simulated["uplink_bytes"]
    assert ours["contents"] == simulated["contents"]


@pytest.mark.slow
def test_federate_stops_resumes_and_has_the_numbers_of_train(tmp_path):
    """Stopped by SIGINT after round 1, and by the end of its SuperLink after round 2.

    All processes end each time; --resume goes on to the digest.
    """
    env = {"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}

    def command(*words):
        script = f"import sys\nsys.argv[1:] = {words!r}\nfrom fedjax_llm.cli import main\nmain()"
        return python("-c", script, env=env)

    out = tmp_path / "federated"
    for number, status, expected in (
        (1, 130, "fedjax-llm: stopped by SIGINT after round 1 of 3"),
        (2, 2, "SuperLink: expected it to run until the last round, got its end with status -9"),
    ):
        resume = ["--resume"] if number > 1 else []
        process = command("federate", *SMALL, "--out", str(out), *resume)
        until = time.monotonic() + 400
        while len(rows(out)) < number:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)
        (mark,) = marks(out)
        if number == 1:
            os.kill(process.pid, signal.SIGINT)
        else:
            os.kill(superlink(mark), signal.SIGKILL)
        _, error = process.communicate(timeout=60)
        assert process.returncode == status, error
        assert not list(keeper.marked(mark))
        assert expected in error
        assert f"; --resume --out {out} continues " in error
    process = command("federate", *SMALL, "--out", str(out), "--resume")
    said, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    assert "round 3 of 3: 2 of 2 clients counted, up " in error
    summary = json.loads((out / "summary.json").read_text())
    alike = ("--population", *SMALL[1:], "--client-axis", "chunked(size=1)")
    process = command("train", *alike, "--out", str(tmp_path / "trained"))
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    trained = json.loads((tmp_path / "trained/summary.json").read_text())
    for name in ("digest", "uplink_bytes", "downlink_bytes", "heldout_nats_per_byte"):
        assert summary[name] == trained[name], name
    assert summary["digest"] in said
    assert (out / "model/model.safetensors").read_bytes() == (
        tmp_path / "trained/model/model.safetensors"
    ).read_bytes()
