"""Every codec with a rate meets it on every kind of update, and short updates arrive."""

import functools
import inspect

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, payload_structure, wire
from fedjax_compression.entropy.short_updates import LEAST_BYTES
from fedjax_compression.ops.mixed_signs import MixedSigns
from fedjax_compression.registry import FACTORIES

WITH_RATE = sorted(
    name
    for name, factory in FACTORIES.items()
    if "rate" in inspect.signature(factory).parameters and name != "diana"  # a step size there
)
UNBIASED = {"dithered"}
CASES = [(1, 6), (1, 60), (1, 2060), (3, 2060), (0.5, 4096), (0.01, 30_000), (0.002, 200_000)]
SHAPES = {
    6: [(2, 2), (2,)],
    60: [(10, 5), (10,)],
    2060: [(64, 32), (12,)],
    4096: [(64, 64)],
    30_000: [(100, 299), (100,)],
    200_000: [(400, 499), (400,)],
}


def ordinary(key, shape):
    return jr.normal(key, shape)


def sparse(key, shape):
    kept = jr.uniform(jr.fold_in(key, 1), shape) < 0.02
    return jnp.where(kept, jr.normal(key, shape), 0.0).at[(0,) * len(shape)].set(1.0)


def constant(key, shape):
    return jnp.ones(shape)


def heavy_tailed(key, shape):
    return jr.t(key, 2.0, shape)


SOURCES = [ordinary, sparse, constant, heavy_tailed]


def vector(update):
    return jnp.concatenate([leaf.reshape(-1) for leaf in update])


@functools.cache
def sent(name, rate, entries):
    """The length of the message and D of each source, with one compilation."""
    c = codec(f"{name}(rate={rate})")

    @jax.jit
    def both(key, x):
        payload, _ = c.encode(key, x, ())
        return payload, c.decode(payload, x)

    found = {}
    for source in SOURCES:
        keys = jr.split(jr.key(entries), len(SHAPES[entries]))
        x = [source(key, shape) for key, shape in zip(keys, SHAPES[entries], strict=True)]
        payload, out = both(jr.key(1), x)
        left = vector(out) - vector(x)
        error = float((left @ left) / (vector(x) @ vector(x)))
        found[source.__name__] = len(wire.dumps(payload)), error
    return found


def test_codecs_with_a_rate_are_those_known():
    assert WITH_RATE == ["adaptive", "dithered", "entropy_coded", "trellis"]


@pytest.mark.long
@pytest.mark.parametrize(("rate", "entries"), CASES)
@pytest.mark.parametrize("name", WITH_RATE)
def test_a_message_has_at_most_the_rate_or_the_least_bytes(name, rate, entries):
    for source, (length, _) in sent(name, rate, entries).items():
        assert length <= max(rate * entries / 8, LEAST_BYTES), source


@pytest.mark.parametrize(
    ("rate", "entries", "nbytes", "signs"),
    [(0.01, 30_000, 40, 160), (0.002, 200_000, 50, 240), (0.1, 12_800, 160, 0)],
)
@pytest.mark.parametrize("name", WITH_RATE)
def test_a_long_update_at_a_low_rate_is_sent_as_signs_within_the_rate(
    name, rate, entries, nbytes, signs
):
    """Header 12, scale 4, seed 4; where there is room for the scales of blocks, those of `eden`."""
    payload = payload_structure(
        codec(f"{name}(rate={rate})"), jax.ShapeDtypeStruct((entries,), jnp.float32)
    )
    if not signs:
        assert not isinstance(payload, MixedSigns)
        return
    assert payload.signs.shape == (signs // 8,)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), payload)
    assert len(wire.dumps(zeros)) == nbytes


def test_an_update_of_many_small_matrices_is_sent_within_the_rate():
    """`adaptive` sends a byte for each matrix: 600 of them, where the rate makes 528 bytes."""
    like = [jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 600
    payload = payload_structure(codec("adaptive(rate=0.11)"), like)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), payload)
    assert len(wire.dumps(zeros)) == 528


@pytest.mark.long
@pytest.mark.parametrize(("rate", "entries"), CASES)
@pytest.mark.parametrize("name", WITH_RATE)
def test_an_update_arrives(name, rate, entries):
    for source, (_, error) in sent(name, rate, entries).items():
        bits = max(rate, 8 * LEAST_BYTES / entries)
        signs = 8 * (max(rate * entries / 8, LEAST_BYTES) - 20)
        if bits < 0.1:  # signs have 2 / pi of the share of the entries that are sent
            share = signs / entries
            assert error < (1.3 * 1.571 / share if name in UNBIASED else 1 - 0.5 * share), source
        elif name not in UNBIASED:
            # rotated signs of the entries for which there is room have 1 - 2 / pi per bit
            assert error < (0.85 if bits < 1 else 0.6 if bits < 3 else 0.1), source
        elif bits >= 1:
            assert error < 0.9, source
