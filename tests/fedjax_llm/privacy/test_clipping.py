"""Clipping of whole updates, against the definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import codec

from fedjax_llm.privacy import clip_rows

CODECS = (
    "identity()",
    "stochastic_quantize(bits=2)",
    pytest.param("eden(bits=1)", marks=pytest.mark.slow),
    "top_k(fraction=0.1)",
    "random_k(fraction=0.05)",
    "error_feedback(top_k(fraction=0.05))",
    pytest.param("entropy_coded(rate=1.0)", marks=pytest.mark.slow),
)


def norms(rows):
    flat = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(rows)]
    return np.sqrt(sum((leaf**2).sum(1) for leaf in flat))


def rows_of(*scales, seed=0):
    random = np.random.default_rng(seed)
    one = [{"a": random.normal(size=(3, 5)), "b": random.normal(size=7)} for _ in scales]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *one)
    size = norms(stacked)

    def to_scale(leaf):
        factors = np.array(scales) / size
        return jnp.asarray(leaf * factors.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.float32)

    return jax.tree.map(to_scale, stacked)


def test_rows_are_clipped_by_the_norm_over_all_leaves():
    """min(1, C / norm) times the row, in float64; rows within the bound keep their bits."""
    rows = rows_of(0.0, 0.5, 1.9, 2.1, 40.0)
    clipped, within = clip_rows(rows, 2.0)
    factors = np.minimum(1, 2.0 / np.maximum(norms(rows), 1e-30))
    for got, leaf in zip(jax.tree.leaves(clipped), jax.tree.leaves(rows), strict=True):
        exact = np.asarray(leaf, np.float64) * factors.reshape(-1, *[1] * (leaf.ndim - 1))
        np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(got[:3], leaf[:3])
    assert within.tolist() == [True, True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e10, 1e25, 1e38])
@pytest.mark.parametrize("bound", [1e-8, 1.0, 1e6])
def test_no_row_exceeds_the_bound_and_a_long_one_reaches_it(scale, bound):
    """Also where the squares of its entries vanish or overflow in float32."""
    rows = rows_of(scale, seed=1)
    clipped, _ = clip_rows(rows, bound)
    norm = norms(clipped)[0]
    assert norm <= bound * (1 + 1e-6)
    if scale > 2 * bound:
        assert norm >= bound * (1 - 1e-6)


@pytest.mark.parametrize("value", [8.4e37, 8.6e37, 1e38, 3.4e38])
@pytest.mark.parametrize("groups", [(), ("a",)])
def test_rows_at_the_end_of_float32_are_clipped(value, groups):
    """Above 2^126, about 8.5e37, a reciprocal is no normal number."""
    rows = {"a": jnp.full((2, 3), value), "b": jnp.full((2, 4), -value)}
    for clip in (clip_rows, jax.jit(clip_rows, static_argnums=2)):
        clipped, within = clip(rows, 1.0, groups)
        np.testing.assert_allclose(norms(clipped), 1, rtol=1e-6)
        assert not within.any()
        assert (clipped["a"] > 0).all()
        assert (clipped["b"] < 0).all()


def test_a_million_entries_stay_within_the_bound_to_rounding():
    rows = 3 * jax.random.normal(jax.random.key(0), (1, 1_000_000))
    norm = norms(clip_rows(rows, 1.0)[0])[0]
    assert abs(norm - 1) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_zero_and_others_stay(bad):
    rows = rows_of(0.5, 0.5)
    rows["b"] = rows["b"].at[0, 3].set(bad)
    clipped, within = clip_rows(rows, 1.0)
    assert within.tolist() == [False, True]
    assert not any(np.asarray(leaf[0]).any() for leaf in jax.tree.leaves(clipped))
    for got, leaf in zip(jax.tree.leaves(clipped), jax.tree.leaves(rows), strict=True):
        np.testing.assert_array_equal(got[1], leaf[1])


def test_rows_in_bfloat16_are_clipped_in_float32():
    rows = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), rows_of(5.0, 9.0))
    clipped, _ = clip_rows(rows, 1.0)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(clipped)} == {"float32"}
    np.testing.assert_allclose(norms(clipped), 1, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("text", CODECS)
def test_what_a_codec_decodes_to_is_within_the_bound(text):
    """An update of norm 1 may decode to a larger one: the bound holds on the decoded row."""
    compressor = codec(text)
    update = jax.tree.map(lambda leaf: leaf[0], rows_of(1.0))
    largest = 0.0
    state = compressor.init(update)
    for seed in range(5):
        payload, state = compressor.encode(jax.random.key(seed), update, state)
        decoded = jax.tree.map(lambda leaf: leaf[None], compressor.decode(payload, update))
        largest = max(largest, norms(decoded)[0])
        assert norms(clip_rows(decoded, 1.0)[0])[0] <= 1 + 1e-6
    if text.startswith(("eden", "random_k", "error_feedback", "stochastic")):
        assert largest > 1.1, "this codec no longer shows why the server clips what it decodes"


NESTED = {"blocks": {"attention": {"q": (3, 5), "k": 4}, "mlp": {"up": 6}}, "norm": 2}


def nested_rows(*scales):
    """Rows of a model's update, the first group of each far larger than the others."""
    random = np.random.default_rng(3)
    rows = jax.tree.map(
        lambda shape: random.normal(size=(len(scales), *np.atleast_1d(shape))),
        NESTED,
        is_leaf=lambda each: isinstance(each, tuple | int),
    )
    rows["blocks"]["attention"]["q"] *= 50
    scale = np.array(scales)
    by = lambda leaf: leaf * scale.reshape(-1, *[1] * (leaf.ndim - 1))  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(by(leaf), jnp.float32), rows)


def test_groups_are_clipped_by_themselves_each_to_the_bound_over_the_root_of_their_number():
    """Three groups: attention, mlp and the rest, each min(1, C / sqrt(3) / norm), in float64."""
    rows = nested_rows(0.0, 0.01, 1.0, 40.0)
    clipped, within = clip_rows(rows, 2.0, ("attention", "mlp"))
    for part in (
        lambda tree: tree["blocks"]["attention"],
        lambda tree: tree["blocks"]["mlp"],
        lambda tree: tree["norm"],
    ):
        factors = np.minimum(1, 2 / np.sqrt(3) / np.maximum(norms(part(rows)), 1e-30))
        for got, leaf in zip(
            jax.tree.leaves(part(clipped)), jax.tree.leaves(part(rows)), strict=True
        ):
            exact = np.asarray(leaf, np.float64) * factors.reshape(-1, *[1] * (leaf.ndim - 1))
            np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-7)
    assert within.tolist() == [True, False, False, False]
    assert norms(clipped).max() <= 2 * (1 + 1e-6)
    np.testing.assert_allclose(norms(clipped)[3], 2, rtol=1e-6)


def test_a_row_that_is_not_finite_in_one_group_is_zero_in_all():
    rows = nested_rows(1.0, 1.0)
    rows["norm"] = rows["norm"].at[0, 1].set(np.nan)
    clipped, within = clip_rows(rows, 1000.0, ("attention",))
    assert within.tolist() == [False, True]
    assert not any(np.asarray(leaf[0]).any() for leaf in jax.tree.leaves(clipped))


def test_one_text_in_place_of_names_is_refused():
    with pytest.raises(TypeError, match="clip_rows: groups: expected a sequence of names, got 'ml"):
        clip_rows(nested_rows(1.0), 1.0, "mlp")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("atention",), r"groups: expected a part of a path.*attention.*got 'atention'"),
        (("blocks", "mlp"), r"that no name before it has.*got 'mlp'"),
    ],
)
def test_a_group_without_leaves_is_refused(names, said):
    with pytest.raises(ValueError, match=said):
        clip_rows(nested_rows(1.0), 1.0, names)
