"""Updates at the edges of their dtypes and shapes, through every codec."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, payload_structure
from fedjax_compression.codec import FACTORIES
from fedjax_compression.text import parse

from .test_contract import CODECS, compiled, names, structure, update

VANISHING = {"trellis_fixed", "nf4", "blockwise_int"}
"""Whose sums of squares or inverse scales leave float32 at entries of 1e38: they may decode to
zeros there. All others say so with entries that are not finite, or decode as ever."""
SHORT = {"trellis", "adaptive"}
"""Whose tables are longer than this update's budget: zeros are all that it pays for."""
INDEXING = {"random_k", "top_k", "chunked_top_k", "threshold", "sparse_ternary", "dgc", "dct_top_k"}
INDEXING |= {"random_subspace", "trellis", "adaptive", "sparse_loco", "dithered"}
FRACTIONAL = {"eden(bits=0.5)", "eden(bits=2.3)"}
"""Both count entries in 32-bit integers, and have not been made for updates of 2^31 entries."""
LONG = [t for t in CODECS if not names(parse(t)) & INDEXING and t not in FRACTIONAL]


def scaled(value):
    """Entries of one magnitude and both signs; NumPy's, as XLA makes zeros of denormals."""
    return jax.tree.map(lambda x: np.where(x < 0, -value, value).astype(np.float32), update())


def finite(tree):
    return all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(tree))


def zeros(tree):
    return not any(np.asarray(x, np.float32).any() for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("text", CODECS)
def test_denormals_decode_to_finite_numbers_and_huge_ones_do_not_vanish(text):
    c, x = compiled(text), scaled(1e-40)
    payload, state = c.encode(jr.key(1), x, c.init(x))
    decoded = c.decode(payload, x)
    assert finite((decoded, state))
    assert all((np.abs(leaf) < 1e-30).all() for leaf in jax.tree.leaves(decoded))
    payload, state = c.encode(jr.key(1), scaled(1e38), state)
    decoded = c.decode(payload, x)
    assert finite(state)
    if not names(parse(text)) & (VANISHING | SHORT):
        assert not finite(decoded) or not zeros(decoded)


@pytest.mark.parametrize("text", CODECS)
def test_small_entries_do_not_vanish(text):
    c, x = compiled(text), scaled(1e-25)
    decoded = c.decode(c.encode(jr.key(1), x, c.init(x))[0], x)
    assert finite(decoded)
    if not names(parse(text)) & ({"trellis_fixed", "threshold", "stochastic_mask"} | SHORT):
        assert not zeros(decoded)


@pytest.mark.parametrize("text", CODECS)
def test_a_scalar_and_a_single_entry_are_updates(text):
    c = codec(text)
    for x in (jnp.float32(3.0), jnp.full((1,), 3.0)):
        decoded = c.decode(c.encode(jr.key(1), x, c.init(x))[0], x)
        assert structure(decoded) == structure(x)
        assert finite(decoded)


@pytest.mark.parametrize("text", CODECS)
def test_dtypes_may_be_mixed(text):
    dtypes = {"matrix": jnp.float32, "vector": jnp.bfloat16, "scalar": jnp.float16}
    x = {n: jax.ShapeDtypeStruct(update()[n].shape, dtype) for n, dtype in dtypes.items()}
    c = codec(text)
    decoded = jax.eval_shape(lambda payload: c.decode(payload, x), payload_structure(c, x))
    assert structure(decoded) == structure(x)


@pytest.mark.parametrize("text", LONG)
def test_updates_may_have_more_entries_than_32_bit_integers_count(text):
    c, x = codec(text), jax.ShapeDtypeStruct((2**31 + 5,), jnp.float32)
    decoded = jax.eval_shape(lambda payload: c.decode(payload, x), payload_structure(c, x))
    assert decoded.shape == x.shape


def test_the_exceptions_are_codecs():
    assert set(FACTORIES) >= VANISHING | INDEXING
    assert set(CODECS) >= FRACTIONAL
