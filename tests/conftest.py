import itertools
import os
import shutil
import signal
import tempfile
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

# Many tests, workers and commands compile the same programs: those of a session share them.
_PROGRAMS = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _PROGRAMS = tempfile.mkdtemp(prefix="programs-of-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _PROGRAMS
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    jax.config.update("jax_compilation_cache_dir", _PROGRAMS)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_unconfigure():
    """Remove the shared programs, in the process that made their folder."""
    if _PROGRAMS is not None:
        shutil.rmtree(_PROGRAMS, ignore_errors=True)


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
