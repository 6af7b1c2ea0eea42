"""The loopback demonstration: real processes, one that dies early and one that dies late."""

import re
import sys

import pytest

from tests.helpers.processes import python


@pytest.mark.slow
def test_processes_sum_exactly_over_sockets_with_two_that_die():
    words = ["--clients", "5", "--degree", "4", "--threshold", "2", "--entries", "20000"]
    path = ":".join(sys.path)
    with python("experiments/secure_loopback.py", *words, env={"PYTHONPATH": path}) as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "mask: a client is left out" in out
    assert "unmask: a client is left out" in out
    assert "summed 4 of 5 clients, exact: True" in out
    (times,) = re.findall(r"bytes, ([\d.]+) times 20 bits an entry", out)
    assert 1.0 < float(times) < 1.03
