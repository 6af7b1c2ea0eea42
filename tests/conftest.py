import itertools
import os
import signal
from pathlib import Path

import jax
import pytest

# Programs here are compiled often and run once: compile fast. XLA reads the flag when it first
# compiles; without its fusion emitters that takes half the time, or less. Later ones end the
# process at a flag that they no longer know.
if jax.__version_info__ < (0, 12):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_disable_most_optimizations", True)

# A shell starts commands in the background with SIGINT ignored; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


MOST_MAPS = 20_000
"""Memory maps at which programs are dropped: a process may have 65,530 on Linux, and each compiled
program takes some; beyond that XLA crashes.
"""
_TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def _programs_are_dropped_in_time():
    yield
    if next(_TESTS) % 10 == 0:
        maps = Path("/proc/self/maps")
        if not maps.exists() or len(maps.read_bytes().splitlines()) > MOST_MAPS:
            jax.clear_caches()
