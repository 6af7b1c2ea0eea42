"""The base that processes share is the same arrays, in one file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_llm.runs.federated import shared_base
from fedjax_llm.simulation.digest import digest

BASE = {
    "kernel": jnp.arange(35, dtype=jnp.float32).reshape(5, 7) / 3,
    "half": jnp.linspace(-1, 1, 9).astype(jnp.bfloat16),
    "packed": jnp.arange(3, dtype=jnp.uint8),
    "one": jnp.float32(2.5),
    "none": jnp.zeros((0, 4)),
    "nan": jnp.array([jnp.nan, -0.0]),
}


@pytest.fixture
def every_base(monkeypatch):
    monkeypatch.setattr(shared_base, "LEAST_BYTES", 0)


def test_the_bits_are_the_same(every_base, tmp_path):
    written, read = (shared_base.shared_base(BASE, tmp_path) for _ in range(2))
    assert digest(written) == digest(read) == digest(BASE)
    assert [path.suffix for path in tmp_path.glob("base-*")] == [".bin"]
    total = jax.jit(lambda base: jnp.nansum(base["kernel"]) + base["one"])
    np.testing.assert_array_equal(total(read), total(BASE))


def test_another_base_has_another_file(every_base, tmp_path):
    other = {**BASE, "one": jnp.float32(2.75)}
    assert shared_base.shared_base(BASE, tmp_path)["one"] == 2.5
    assert shared_base.shared_base(other, tmp_path)["one"] == 2.75


def test_arrays_lie_in_the_mapped_file(every_base, tmp_path):
    leaf = shared_base.shared_base({"kernel": jnp.ones((64, 64))}, tmp_path)["kernel"]
    (path,) = tmp_path.glob("base-*.bin")
    with open("/proc/self/maps", encoding="utf-8") as maps:
        (mapped,) = [line.split()[0] for line in maps if line.rstrip().endswith(str(path))]
    first, last = (int(address, 16) for address in mapped.split("-"))
    assert first <= leaf.unsafe_buffer_pointer() < last


def test_a_small_base_stays_where_it_is(tmp_path):
    assert shared_base.shared_base(BASE, tmp_path) is BASE
    assert not list(tmp_path.iterdir())
