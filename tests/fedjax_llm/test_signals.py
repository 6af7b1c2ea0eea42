"""SIGINT and SIGTERM: one line, the status of the signal, and no wait for what is running."""

import os
import random
import signal
import time

import pytest

from fedjax_llm.runs.stopping import stop_signals
from tests import stop_runs
from tests.helpers.processes import python

BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
"""Minutes inside one call that no handler of Python interrupts, as XLA's compilation is."""
LINE = "fedjax-llm: stopped by {}; finished rows are kept.\n"


def ready(code):
    """A process that has run some lines and is busy."""
    script = f"{stop_runs.FIRST}; import hashlib\n{code}\nprint('ready', flush=True)\n{BUSY}"
    process = python("-c", script)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_process_ends_at_once_inside_a_long_call(which):
    process = ready("from fedjax_llm.signals import answer_signals; answer_signals()")
    status, error, seconds = stop_runs.stop(process, which)
    assert (status, error) == (128 + which, LINE.format(which.name))
    assert seconds < 5


@pytest.mark.slow
def test_a_run_is_asked_first_and_the_second_signal_ends_it():
    code = "from fedjax_llm.runs.stopping import stop_signals"
    process = ready(f"{code}; run = stop_signals(); run.__enter__()")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("fedjax-llm: SIGINT: finishing the current round")
    assert process.poll() is None
    status, error, _ = stop_runs.stop(process, signal.SIGTERM)
    assert (status, error) == (143, LINE.format("SIGTERM"))


def test_a_signal_to_be_ignored_is_ignored():
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    process = ready(f"{ignore}\nfrom fedjax_llm.signals import answer_signals; answer_signals()")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    assert stop_runs.stop(process, signal.SIGTERM)[0] == 143


def test_a_run_in_this_process_sees_the_signal_at_its_next_step():
    before = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    with stop_signals() as stop:
        assert stop.by is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.by is signal.SIGTERM
    assert [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.5])
def test_a_command_that_still_imports_ends_with_one_line(seconds):
    with stop_runs.started("frontier", "--quick", "--out", "/nowhere") as process:
        time.sleep(seconds)
        status, error, _ = stop_runs.stop(process, signal.SIGINT)
    assert (status, error) == (130, LINE.format("SIGINT"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_commands_end_as_they_should_at_any_moment(tmp_path, seed):
    """`python -m tests.stop_runs` does it for more moments."""
    what, wrong = stop_runs.stopped_somewhere(random.Random(seed), tmp_path)  # noqa: S311
    assert not wrong, what
