"""Which codecs let a server add up payloads and decode once: the mean decodes to the mean."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from tests.helpers.codec_table import CODECS, compiled, every_codec, update

LINEAR = {
    "identity()": "nothing is coded",
    "chain()": "nothing is coded",
    "top_k(fraction=1.0)": "every entry is sent, so that the supports are one",
    "random_k(fraction=0.3)": "one key, one support",
    "random_subspace(fraction=0.3)": "one key, one rotation and one support",
}
"""Not in it: `count_sketch`, whose payloads add up but whose median does not; `power_sgd`, a
product of two factors; quantisers, whose codes are no floats; the largest entries, which differ."""


def means_decode_to_means(text):
    """For two payloads of one key, both from fresh states; all but floats must be equal."""
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


@every_codec
def test_a_codec_is_linear_where_it_is_listed_and_nowhere_else(text):
    assert means_decode_to_means(text) == (text in LINEAR)


def test_the_list_has_no_codec_that_the_table_lacks():
    assert set(LINEAR) <= set(CODECS)
