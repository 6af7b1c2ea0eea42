"""Targets, ranks and scales of LoRA and its variants, computed by hand."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx

from fedjax_llm.adapters import adapt, dora, lora, resize_rank, rslora
from fedjax_llm.adapters.low_rank import Directed
from fedjax_llm.adapters.targets import PROJECTIONS
from fedjax_llm.models import Classifier, Decoder, EncoderConfig
from fedjax_llm.models.layers import Linear
from tests.helpers.tiny import TINY


def adapted(adapter, config=TINY):
    return adapt(adapter, Decoder(config, rngs=nnx.Rngs(0)), key=jr.key(1))


def projection(one, params, *path):
    module = one.merge(params, one.frozen).blocks
    for name in path:
        module = getattr(module, name)
    return module


def ranks(adapter):
    """The ranks of each adapted projection, one per layer."""
    one = adapted(adapter)
    return {
        path[-2]: module.ranks
        for path, module in nnx.iter_graph(one.merge(one.params, one.frozen))
        if type(module).__name__ in ("LowRank", "Directed")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("q_proj,up_proj", {"q_proj": (2, 2), "up_proj": (2, 2)}),
        (["model.layers.1.mlp.up_proj"], {"up_proj": (0, 2)}),
        ("self_attn.v_proj", {"v_proj": (2, 2)}),
        (r".*layers\.0\..*_proj", {p: (2, 0) for p in PROJECTIONS if p != "qkv_proj"}),
        (None, {p: (2, 2) for p in PROJECTIONS if p != "qkv_proj"}),
        ("all-linear", {p: (2, 2) for p in PROJECTIONS if p != "qkv_proj"}),
    ],
)
def test_targets_are_names_ends_of_names_or_a_pattern(targets, expected):
    assert ranks(lora(rank=2, targets=targets)) == expected


@pytest.mark.slow
def test_patterns_of_ranks_as_a_mapping_and_as_text():
    given = {"targets": "q_proj,v_proj", "rank": 2}
    expected = {"q_proj": (5, 2), "v_proj": (3, 3)}
    pattern = {"v_proj": 3, r"layers\.0\..*": 5}
    assert ranks(lora(**given, rank_pattern=pattern)) == expected
    assert ranks(dora(**given, rank_pattern=r"v_proj=3;layers\.0\..*=5")) == expected


def test_layers_of_different_rank_are_trained_without_padding():
    one = adapted(lora(rank=2, targets="q_proj", rank_pattern="layers.1.*=5"))
    low = one.params["blocks"]["attention"]["q_proj"]["adapter"]
    shapes = jax.tree.map(jnp.shape, low)
    assert shapes["a"] == {"rank2": (1, 16, 2), "rank5": (1, 16, 5)}
    assert shapes["b"] == {"rank2": (1, 2, 16), "rank5": (1, 5, 16)}
    whole = projection(one, one.params, "attention", "q_proj").adapter
    np.testing.assert_array_equal(whole.a[...][0, :, 2:], 0)
    np.testing.assert_array_equal(whole.a[...][0, :, :2], low["a"]["rank2"][0])
    np.testing.assert_array_equal(whole.a[...][1], low["a"]["rank5"][0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "scales"),
    [
        (lora(rank=4), (2.0, 2.0)),
        (lora(rank=4, alpha=2), (0.5, 0.5)),
        (rslora(rank=4, alpha=2), (1.0, 1.0)),
        (lora(rank=4, alpha=8, rank_pattern="layers.1.*=2"), (2.0, 4.0)),
        (lora(rank=4, alpha=8, alpha_pattern={"layers.1.*": 2.0}), (2.0, 0.5)),
        (rslora(rank=4, alpha=8, rank_pattern="layers.1.*=16"), (4.0, 2.0)),
    ],
)
def test_scales_are_alpha_over_the_rank_or_its_root(adapter, scales):
    one = adapted(adapter)
    low = projection(one, one.params, "mlp", "up_proj").adapter
    np.testing.assert_allclose(np.broadcast_to(low.scale_of_layers(), 2), scales)


@pytest.mark.slow
def test_dora_is_a_magnitude_times_a_direction_whose_norm_is_a_constant():
    x, a, b = (jr.normal(jr.key(i), shape) for i, shape in enumerate([(7, 5), (5, 2), (2, 3)]))
    linear = Linear(5, 3, bias=True, rngs=nnx.Rngs(0))

    magnitude = jnp.array([1.0, 2.0, 3.0])
    linear.adapter = Directed(a, b, magnitude, scale=0.5, ranks=(2,))
    linear.bias[...] = jnp.array([1.0, 0.0, -1.0])
    changed = linear.kernel[...] + 0.5 * a @ b
    norms = np.sqrt((np.asarray(changed) ** 2).sum(axis=0))
    np.testing.assert_allclose(
        linear(x), x @ (changed * magnitude / norms) + linear.bias[...], rtol=1e-5, atol=1e-6
    )

    def out(module):
        return module(x).sum()

    gradient = nnx.grad(out)(linear)
    expected = 0.5 * x.T @ jnp.ones((7, 3)) @ (b * (magnitude / norms)).T
    np.testing.assert_allclose(gradient.adapter.a[...], expected, rtol=1e-4)


@pytest.mark.slow
def test_an_encoder_takes_lora_by_either_name():
    config = EncoderConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        type_vocab_size=2,
    )
    for name in ("q_proj", "query"):
        model = Classifier(config, labels=3, rngs=nnx.Rngs(0))
        one = adapt(lora(rank=2, targets=name), model, key=jr.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(one.params)) == 2 * 2 * 16


def test_resized_ranks_keep_the_product_and_come_back():
    one = adapted(lora(rank=2, alpha=4, targets="q_proj"))
    params = jax.tree.map(lambda leaf: leaf + 0.1, one.params)
    wide = resize_rank(params, rank=5)
    assert jax.tree.map(jnp.shape, wide)["blocks"]["attention"]["q_proj"]["adapter"] == {
        "a": (2, 16, 5),
        "b": (2, 5, 16),
    }
    low, high = (p["blocks"]["attention"]["q_proj"]["adapter"] for p in (params, wide))
    np.testing.assert_allclose(low["a"] @ low["b"], high["a"] @ high["b"], rtol=1e-5, atol=1e-6)
    back = resize_rank(wide, rank=2)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, back, params)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank_pattern": "q_proj"}, "rank_pattern: expected text such as k_proj=4"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern: expected an integer at least 1, got 0"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern: expected a valid regular .*, got '\('"),
        ({"alpha": 0}, "lora: alpha: expected a number above 0, got 0"),
        ({"alpha": -2.0}, "lora: alpha: expected a number above 0, got -2.0"),
        ({"alpha": float("nan")}, "lora: alpha: expected a finite number above 0, got nan"),
        ({"alpha_pattern": "q_proj=0"}, "alpha_pattern: expected a number above 0, got 0.0"),
        (
            {"alpha_pattern": "q_proj=nan"},
            "alpha_pattern: expected a finite number above 0, got nan",
        ),
        ({"targets": "(q_proj"}, r"targets: expected a valid regular .*, got '\(q_proj'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        lora(rank=2, **arguments)


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match=r"of its modules, such as model.layers.0.self_attn"):
        adapted(lora(rank=2, targets=r"layers\.7\..*"))


@pytest.mark.slow
@pytest.mark.parametrize("factory", [lora, rslora, dora])
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize(
    ("patterns", "unused"),
    [
        ({"k_proj": 4}, "k_proj"),  # the adapter is on q_proj alone
        ({r"layers\.7\..*": 4}, "layers"),
        ({"q_proj": 4, "layers.0.*": 3}, "layers.0"),  # q_proj matches first, in each layer
    ],
)
def test_a_rank_or_alpha_for_no_module_is_refused(factory, field, patterns, unused):
    expected = rf"{factory.__name__}: {field}: expected each pattern to be .* got '{unused}"
    with pytest.raises(ValueError, match=expected):
        adapted(factory(rank=2, targets="q_proj", **{field: patterns}))
