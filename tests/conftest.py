import os
from pathlib import Path

import jax
import pytest

# Programs here are compiled often and run once: compile fast. XLA reads the flag when it first
# compiles; without its fusion emitters that takes half the time, or less.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    """Each program holds memory maps, of which a process may have 65,530 on Linux."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
