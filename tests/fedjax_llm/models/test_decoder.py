import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx

from fedjax_llm import Decoder, DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=50,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)


def decoder(config=CONFIG, seed=0):
    model = Decoder(config, rngs=nnx.Rngs(seed))
    # norm scales other than 1, so that a missing norm changes the logits
    state = nnx.state(model)
    leaves, treedef = jax.tree.flatten(state)
    keys = jr.split(jr.key(1), len(leaves))
    moved = [
        leaf + 0.1 * jr.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)
    ]
    nnx.update(model, jax.tree.unflatten(treedef, moved))
    return model


def tokens(config=CONFIG, shape=(2, 9)):
    return jr.randint(jr.key(2), shape, 0, config.vocab_size)


def reference(p, config, ids):
    """The same decoder in NumPy, one position and one head at a time."""

    def norm(x, scale):
        return x / np.sqrt((x * x).mean() + config.rms_norm_eps) * scale

    def turn(x, position):
        half = len(x) // 2
        pairs = x[:half] + 1j * x[half:]
        rates = config.rope_theta ** (-np.arange(half) / half)
        turned = pairs * np.exp(1j * position * rates)
        return np.concatenate([turned.real, turned.imag])

    def softmax(x):
        e = np.exp(x - x.max())
        return e / e.sum()

    head, groups = config.head_size, config.num_attention_heads // config.num_key_value_heads
    x = p["embedding"][ids]
    for layer in range(config.num_hidden_layers):
        b = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["blocks"])
        a = {name: product["kernel"] for name, product in b["attention"].items()}
        h = np.stack([norm(row, b["input_norm"]["scale"]) for row in x])
        q, k, v = h @ a["q_proj"], h @ a["k_proj"], h @ a["v_proj"]
        out = np.zeros_like(q)
        for i in range(len(ids)):
            for n in range(config.num_attention_heads):
                query_entries = slice(n * head, (n + 1) * head)
                shared = slice(n // groups * head, (n // groups + 1) * head)
                query = turn(q[i, query_entries], i)
                scores = [query @ turn(k[j, shared], j) / head**0.5 for j in range(i + 1)]
                out[i, query_entries] = softmax(np.array(scores)) @ v[: i + 1, shared]
        x = x + out @ a["o_proj"]
        m = {name: product["kernel"] for name, product in b["mlp"].items()}
        h = np.stack([norm(row, b["post_attention_norm"]["scale"]) for row in x])
        gate = h @ m["gate_proj"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ m["up_proj"])) @ m["down_proj"]
    h = np.stack([norm(row, p["norm"]["scale"]) for row in x])
    return h @ (p["embedding"].T if config.tie_word_embeddings else p["head"]["kernel"])


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_logits_equal_those_of_an_independent_reference(tied):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied)
    model, ids = decoder(config), tokens()
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(model)))
    expected = np.stack([reference(params, config, np.asarray(row)) for row in ids])
    np.testing.assert_allclose(model(ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_logits_do_not_depend_on_later_tokens():
    model, ids = decoder(), tokens()
    changed = ids.at[:, 5].set((ids[:, 5] + 1) % CONFIG.vocab_size)
    before, after = model(ids), model(changed)
    np.testing.assert_allclose(before[:, :5], after[:, :5], rtol=1e-5, atol=1e-5)
    assert jnp.abs(before[:, 5:] - after[:, 5:]).max() > 0.01


@pytest.mark.slow
def test_remat_does_not_change_gradients():
    ids = tokens()

    def gradient(remat):
        model = decoder(dataclasses.replace(CONFIG, remat=remat))
        return nnx.to_pure_dict(nnx.grad(lambda m: (m(ids) ** 2).mean())(model))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient(False),
        gradient(True),
    )


def test_parameters_of_layers_are_stacked_and_differ():
    kernel = nnx.to_pure_dict(nnx.state(Decoder(CONFIG, rngs=nnx.Rngs(0))))["blocks"]["mlp"][
        "up_proj"
    ]["kernel"]
    assert kernel.shape == (3, 24, 40)
    assert jnp.abs(kernel[0] - kernel[1]).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden_size": 25},
            r"hidden_size: expected a multiple of 2 \* num_attention_heads = 12, .* got 25",
        ),
        (
            {"num_key_value_heads": 4},
            "num_attention_heads: expected a multiple of num_key_value_heads = 4, got 6",
        ),
        (
            {"num_hidden_layers": 0},
            "num_hidden_layers: expected an integer at least 1 and at most 10000, got 0",
        ),
    ],
)
def test_inconsistent_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Decoder(dataclasses.replace(CONFIG, **change), rngs=nnx.Rngs(0))
