"""Work that ends soon after a signal, or is ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
