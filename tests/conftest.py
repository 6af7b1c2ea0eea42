import jax
import pytest

# Programs here are compiled often and run once: compile fast.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True, scope="module")
def _programs_are_let_go():
    """Each program holds memory maps, of which a process may have 65,530 on Linux."""
    yield
    jax.clear_caches()
