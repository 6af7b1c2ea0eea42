"""Updates at the edges of their dtypes and shapes, through every codec."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, payload_structure
from fedjax_compression.ops.flat import size
from fedjax_compression.registry import FACTORIES
from fedjax_compression.text import parse

from tests.helpers.codec_table import CODECS, compiled, every_codec, names, structure, update

COUNTING = {"random_k", "top_k", "chunked_top_k", "threshold", "sparse_ternary", "dgc", "dct_top_k"}
COUNTING |= {"random_subspace", "trellis", "adaptive", "sparse_loco", "dithered"}
"""Codecs that count entries with 32-bit integers and refuse updates of about 2^31 entries."""
SCALING = ["trellis_fixed(bits=2)", "eden(bits=2)", "eden(bits=0.5)", "nf4()"]
SCALING += ["blockwise_int(bits=2)", "blockwise_int(bits=8)"]
LONG = {
    "one leaf": jax.ShapeDtypeStruct((2**31,), jnp.float32),
    "two leaves": [jax.ShapeDtypeStruct((2**30,), jnp.float32)] * 2,
    "more than 32 bits count": jax.ShapeDtypeStruct((2**32 + 5,), jnp.float32),
}


def scaled(value):
    """Entries of one magnitude and both signs, in NumPy: XLA would flush denormals to zero."""
    return jax.tree.map(lambda x: np.where(x < 0, -value, value).astype(np.float32), update())


def finite(tree):
    return all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(tree))


def zeros(tree):
    return not any(np.asarray(x, np.float32).any() for x in jax.tree.leaves(tree))


@every_codec
def test_denormals_decode_to_finite_numbers_and_huge_entries_do_not_vanish(text):
    c, x = compiled(text), scaled(1e-40)
    payload, state = c.encode(jr.key(1), x, c.init(x))
    decoded = c.decode(payload, x)
    assert finite((decoded, state))
    assert all((np.abs(leaf) < 1e-30).all() for leaf in jax.tree.leaves(decoded))
    payload, state = c.encode(jr.key(1), scaled(1e38), state)
    decoded = c.decode(payload, x)
    assert finite(state)
    assert not finite(decoded) or not zeros(decoded)


@every_codec
def test_small_entries_do_not_vanish(text):
    c, x = compiled(text), scaled(1e-25)
    decoded = c.decode(c.encode(jr.key(1), x, c.init(x))[0], x)
    assert finite(decoded)
    if not names(parse(text)) & {"threshold", "stochastic_mask", "fixed_point"}:
        assert not zeros(decoded)


@every_codec
def test_a_scalar_and_a_single_entry_are_valid_updates(text):
    c = compiled(text)
    for x in (jnp.float32(3.0), jnp.full((1,), 3.0)):
        decoded = c.decode(c.encode(jr.key(1), x, c.init(x))[0], x)
        assert structure(decoded) == structure(x)
        assert finite(decoded)


@every_codec
def test_dtypes_may_be_mixed(text):
    dtypes = {"matrix": jnp.float32, "vector": jnp.bfloat16, "scalar": jnp.float16}
    x = {n: jax.ShapeDtypeStruct(update()[n].shape, dtype) for n, dtype in dtypes.items()}
    c = codec(text)
    decoded = jax.eval_shape(lambda payload: c.decode(payload, x), payload_structure(c, x))
    assert structure(decoded) == structure(x)


@pytest.mark.parametrize("power", [-80, 80, 125])
@pytest.mark.parametrize("text", SCALING)
def test_scaling_by_a_power_of_two_only_scales_the_decoded_update(text, power):
    c, x = compiled(text), jax.tree.map(lambda leaf: leaf / 8, update())
    scaled = jax.tree.map(lambda leaf: leaf * 2.0**power, x)
    decoded, large = (c.decode(c.encode(jr.key(1), u, ())[0], u) for u in (x, scaled))
    for a, b in zip(jax.tree.leaves(decoded), jax.tree.leaves(large), strict=True):
        np.testing.assert_allclose(b, a * 2.0**power, rtol=1e-5, atol=1e-5 * 2.0**power)


@every_codec
@pytest.mark.parametrize("like", LONG.values(), ids=LONG)
def test_updates_of_2_31_entries_are_coded_or_refused_with_the_limit(text, like):
    c, counting = codec(text), names(parse(text)) & COUNTING
    if counting:
        (name,) = counting
        limit = rf"^{name}: update: expected at most 2147483640 entries, got {size(like)}; send"
        with pytest.raises(ValueError, match=limit):
            payload_structure(c, like)
    else:
        decoded = jax.eval_shape(
            lambda payload: c.decode(payload, like), payload_structure(c, like)
        )
        assert structure(decoded) == structure(like)


@pytest.mark.parametrize("text", [t for t in CODECS if names(parse(t)) & COUNTING])
def test_codecs_with_a_limit_accept_updates_of_the_largest_size(text):
    c, like = codec(text), jax.ShapeDtypeStruct((2**31 - 8,), jnp.float32)
    decoded = jax.eval_shape(lambda payload: c.decode(payload, like), payload_structure(c, like))
    assert structure(decoded) == structure(like)


def test_the_exceptions_are_registered_codecs():
    assert set(FACTORIES) >= COUNTING
