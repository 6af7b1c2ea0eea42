"""Linear codecs, whose payloads a server may average before it decodes once."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.helpers.codec_table import CODECS, compiled, every_codec, update

LINEAR = {
    "identity()": "the payload is the update",
    "chain()": "the payload is the update",
    "top_k(fraction=1.0)": "every entry is sent, so that the supports are equal",
    "random_k(fraction=0.3)": "equal keys give equal supports",
    "random_subspace(fraction=0.3)": "equal keys give equal rotations and supports",
}
"""Not linear: `count_sketch`, whose payloads add up but decode by a median; `power_sgd`, a product
of two factors; quantisers, whose codes are integers; `top_k`, whose supports differ."""


def means_decode_to_means(text):
    """Whether the mean of two payloads of one key decodes to the mean of the decoded updates."""
    c, both = compiled(text), [update(seed) for seed in (1, 2)]
    payloads = [c.encode(jr.key(3), x, c.init(x))[0] for x in both]

    def halfway(one, other):
        floating = jnp.issubdtype(one.dtype, jnp.floating)
        return (one + other) / 2 if floating else one

    mean = jax.tree.map(halfway, *payloads)
    for leaf, one, other in zip(*map(jax.tree.leaves, (mean, *payloads)), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating) and not np.array_equal(one, other):
            return False
    wanted = jax.tree.map(halfway, *(c.decode(payload, both[0]) for payload in payloads))
    got = c.decode(mean, both[0])
    return all(
        np.allclose(a, b, rtol=1e-5, atol=1e-5)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True)
    )


@pytest.mark.long
@every_codec
def test_exactly_the_listed_codecs_are_linear(text):
    assert means_decode_to_means(text) == (text in LINEAR)


def test_every_listed_codec_is_in_the_table():
    assert set(LINEAR) <= set(CODECS)
