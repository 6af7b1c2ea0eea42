"""The contract of `Compressor`, for every codec in the table; a factory missing from it fails."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, payload_structure, wire
from fedjax_compression.registry import FACTORIES
from fedjax_compression.text import parse
from fedjax_compression.wire.leaves import is_symbols

from tests.helpers.codec_table import (
    CODECS,
    compiled,
    every_codec,
    names,
    payload_like,
    structure,
    update,
)

COMBINED = [
    "chain(top_k(fraction=0.3), stochastic_quantize(bits=4))",
    "diana(eden(bits=1), rate=0.5)",
    "ef21(top_k(fraction=0.1))",
    "error_feedback(top_k(fraction=0.1))",
    "least_error_scale(top_k(fraction=0.5))",
    "rotated(sign())",
    "unbiased_scale(top_k(fraction=0.5))",
]
"""One codec for each wrapper."""


EAGER = [text for text in CODECS if text.count("(") == 1 or text in COMBINED]


DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


@functools.cache
def encoded(text):
    """The payload of `update()` from a fresh state, and the state after it."""
    c, x = compiled(text), update()
    return c.encode(jr.key(1), x, c.init(x))


def equal(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_every_factory_is_in_the_table():
    for texts in (CODECS, EAGER):
        assert set().union(*(names(parse(text)) for text in texts)) == set(FACTORIES)


@pytest.mark.parametrize("dtype", DTYPES)
@every_codec
def test_tree_shapes_and_dtypes_come_back(text, dtype):
    c, like = compiled(text), jax.eval_shape(lambda: update(dtype=dtype))
    decoded = jax.eval_shape(lambda payload: c.decode(payload, like), payload_structure(c, like))
    assert structure(decoded) == structure(like)


@every_codec
def test_a_bfloat16_update_decodes_to_finite_bfloat16(text):
    c, x = compiled(text), update(dtype=jnp.bfloat16)
    payload, _ = c.encode(jr.key(1), x, c.init(x))
    out = c.decode(payload, x)
    assert structure(out) == structure(x)
    assert all(np.isfinite(leaf.astype(jnp.float32)).all() for leaf in jax.tree.leaves(out))


@every_codec
def test_state_keeps_its_structure(text):
    c, x = compiled(text), update(dtype=jnp.bfloat16)
    state = c.init(jax.eval_shape(lambda: x))
    _, after = c.encode(jr.key(1), x, state)
    assert structure(after) == structure(state)


@every_codec
def test_nbytes_is_the_length_of_the_message_and_the_message_reads_back(text):
    c, x = compiled(text), update()
    payload, _ = encoded(text)
    like = payload_like(text)
    data = wire.dumps(payload)
    assert len(data) == wire.nbytes(payload)
    if any(map(is_symbols, jax.tree.leaves(payload, is_leaf=is_symbols))):
        with pytest.raises(TypeError, match="payload: expected arrays, got a structure"):
            wire.nbytes(like)
    else:
        assert len(data) == wire.nbytes(like)
    assert equal(wire.loads(data, like), payload)
    assert equal(c.decode(wire.loads(data, like), x), c.decode(payload, x))


# eager evaluation is slow, and inner codecs are also tested on their own
@pytest.mark.parametrize("text", EAGER)
def test_jit_equals_eager(text):
    x = {name: update()[name] for name in ("matrix", "scalar")}

    def sent(c):
        return c.decode(c.encode(jr.key(1), x, c.init(x))[0], x)

    eager, jitted = sent(codec(text)), sent(compiled(text))
    for a, b in zip(jax.tree.leaves(jitted), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@every_codec
def test_vmap_equals_a_loop(text):
    c, clients = compiled(text), [update(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *clients)
    keys = jr.split(jr.key(1), 3)
    states = jax.tree.map(lambda *rows: jnp.stack(rows), *map(c.init, clients))
    payloads, _ = jax.vmap(c.encode)(keys, stacked, states)
    together = jax.vmap(lambda payload: c.decode(payload, clients[0]))(payloads)
    for row, (key, x) in enumerate(zip(keys, clients, strict=True)):
        alone = c.decode(c.encode(key, x, c.init(x))[0], x)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[row], b, rtol=1e-5, atol=1e-5)


@every_codec
def test_zeros_are_exact(text):
    c = compiled(text)
    zeros = jax.tree.map(jnp.zeros_like, update())
    payload, state = c.encode(jr.key(1), zeros, c.init(zeros))
    assert equal(c.decode(payload, zeros), zeros)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@every_codec
def test_constants_stay_finite(text):
    c = compiled(text)
    constant = jax.tree.map(lambda x: jnp.full_like(x, 3.0), update())
    payload, _ = c.encode(jr.key(1), constant, c.init(constant))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(c.decode(payload, constant)))


@every_codec
def test_an_update_without_leaves_is_valid(text):
    c = compiled(text)
    payload, _ = c.encode(jr.key(1), {}, c.init({}))
    assert c.decode(payload, {}) == {}


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("where", ["matrix", "scalar", "one"])
@every_codec
def test_a_non_finite_entry_is_reported_and_the_state_stays_finite(text, where, value):
    c, x = compiled(text), update()
    _, state = encoded(text)
    broken = x | {where: x[where].at[(0,) * x[where].ndim].set(value)}
    payload, after = c.encode(jr.key(2), broken, state)
    assert not all(np.isfinite(y).all() for y in jax.tree.leaves(c.decode(payload, x)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@every_codec
def test_a_repeated_round_traces_once(text):
    c, x = codec(text), update()
    traces = 0

    @jax.jit
    def step(key, update, state):
        nonlocal traces
        traces += 1
        payload, state = c.encode(key, update, state)
        return c.decode(payload, update), state

    state = c.init(x)
    for seed in range(3):
        _, state = step.eval_shape(jr.key(seed), x, state)  # traces without compiling
    assert traces == 1


@pytest.mark.parametrize("text", [t for t in CODECS if "chain()" not in t and "identity" not in t])
def test_integers_raise_a_type_error_that_names_the_leaf(text):
    c = compiled(text)
    with pytest.raises(TypeError, match=r"floating-point entries, got int32 in leaf \['n'\]"):
        c.encode(jr.key(0), {"n": jnp.arange(3)}, c.init({"n": jnp.zeros(3)}))


@every_codec
def test_empty_leaves_come_back(text):
    c, x = compiled(text), {"empty": jnp.zeros((0, 2)), "full": jnp.ones(3)}
    payload, _ = c.encode(jr.key(0), x, c.init(x))
    assert structure(c.decode(payload, x)) == structure(x)


@every_codec
def test_a_receivers_memory_keeps_its_structure_and_stays_finite(text):
    c, x = codec(text), update()
    memory = c.receiver(jax.eval_shape(lambda: x))
    received, after = c.receive(x, memory)
    assert jax.tree.map(jnp.shape, received) == jax.tree.map(jnp.shape, x)
    assert structure(after) == structure(memory)
    broken, still = c.receive(x | {"one": jnp.array([jnp.nan])}, after)
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(broken))
    assert equal(still, after)


@every_codec
def test_a_mean_of_zeros_is_received_as_zeros_with_fresh_memory(text):
    c, zeros = codec(text), jax.tree.map(jnp.zeros_like, update())
    received, memory = c.receive(zeros, c.receiver(zeros))
    assert equal(received, zeros)
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(memory))
