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
