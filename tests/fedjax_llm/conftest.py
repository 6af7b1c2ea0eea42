import functools
import importlib

import jax.random as jr
import pytest

from fedjax_llm import language_model
from fedjax_llm.data import byte_corpus
from tests.helpers.tiny import TINY


@pytest.fixture(scope="session")
def corpus():
    """Seven clients of 40 to 340 bytes."""
    verse = "It was the best of times, it was the worst of times, it was the age of wisdom. "
    return byte_corpus({f"client {i}": (verse * 6)[i : 40 + 51 * i] for i in range(7)})


@pytest.fixture(scope="session")
def task():
    return language_model(TINY, key=jr.key(0))


@pytest.fixture(scope="module")
def compiled_once():
    """Runs of one algorithm share their programs, whatever conditions they are under."""
    names = {
        "simulate": ("with_failures", "whole_round", "round_programs"),
        "buffered": ("with_failures", "round_programs", "_one", "_added"),
    }
    with pytest.MonkeyPatch.context() as patched:
        for module, parts in names.items():
            found = importlib.import_module(f"fedjax_llm.simulation.loop.{module}")
            for part in parts:
                patched.setattr(found, part, functools.cache(getattr(found, part)))
        yield
