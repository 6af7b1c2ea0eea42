"""Work that ends soon after a signal, or is ended."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedjax_llm.runs import stopping
from fedjax_llm.runs.stopping import interrupts

ROOT = Path(__file__).parents[3]
BUSY = """
import time
from fedjax_llm.runs.stopping import stop_signals

with stop_signals() as stop, stop.ending_within(0.3, "ending it", lambda: print("last words")):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_work_that_does_not_end_in_time_is_ended_after_its_last_words():
    """The main thread sleeps through the signal, as it would in a long computation."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "compression")])
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-u", "-c", BUSY],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=50)
    assert time.monotonic() - asked < 2
    assert process.returncode == 128 + signal.SIGTERM
    assert out == "last words\n"
    assert "SIGTERM: ending it; a second signal ends the process at once." in error


def test_the_first_interrupt_asks_and_the_second_raises(capsys):
    before = signal.getsignal(signal.SIGINT)
    with interrupts() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.by is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt, match="the last words"):
            stop.end("the last words")
    assert signal.getsignal(signal.SIGINT) is before
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "fedjax-llm: interrupted: finishing the current round and writing a checkpoint; a second "
        "interrupt ends the run at once."
    )


def test_an_evaluation_that_is_interrupted_does_not_end_the_process(capsys):
    with interrupts() as stop, stop.ending_within(0.01, "ending the evaluation", lambda: None):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
    assert "interrupted: ending the evaluation;" in capsys.readouterr().err


def test_in_another_thread_an_interrupt_keeps_its_meaning():
    before, found = signal.getsignal(signal.SIGINT), []

    def run():
        with interrupts() as stop:
            found.append((stop.by, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(None, before)]


@pytest.mark.parametrize("before", [True, False])
def test_a_signal_bounds_the_work_it_meets_and_the_work_after_it(monkeypatch, before):
    """But not what follows that work."""
    ended, said = threading.Event(), []
    monkeypatch.setattr(stopping.os, "_exit", lambda status: (said.append(status), ended.set()))
    stop = stopping.Stop()
    if before:
        stop.ask(signal.SIGTERM)
    with stop.ending_within(0.05, "ending it", lambda: said.append("last words")):
        if not before:
            stop.ask(signal.SIGTERM)
        assert ended.wait(30)
    assert said == ["last words", 128 + signal.SIGTERM]
    with stop.ending_within(0.2, "ending it", lambda: said.append("more words")):
        pass
    time.sleep(0.5)
    assert said == ["last words", 128 + signal.SIGTERM]
