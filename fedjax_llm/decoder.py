"""A decoder of the Llama family in Flax NNX (Touvron et al. 2023, arXiv:2302.13971)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes of a decoder, by the names that `transformers` gives them."""

    vocab_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 172
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    """Fewer than the attention heads is grouped-query attention; each serves as many heads."""
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    """Whether the output head is the embedding, transposed."""
    remat: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""

    @property
    def head_dim(self) -> int:
        """Entries of one attention head."""
        return self.hidden_size // self.num_attention_heads


class Linear(nnx.Module):
    """x @ kernel, plus what an adapter adds, if one is attached."""

    adapter: nnx.Module | None = None
    """Set on an instance to attach one."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(inputs**-0.5)
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))

    def __call__(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        y = x @ self.kernel[...]
        return y if self.adapter is None else y + self.adapter(x)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, with the mean taken in float32."""

    def __init__(self, width: int, *, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt((wide * wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return (wide * inverse).astype(x.dtype) * self.scale[...]


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary position embeddings."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        width, head = config.hidden_size, config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.rope_theta = config.rope_theta
        self.q_proj = Linear(width, self.heads * head, rngs=rngs)
        self.k_proj = Linear(width, self.kv_heads * head, rngs=rngs)
        self.v_proj = Linear(width, self.kv_heads * head, rngs=rngs)
        self.o_proj = Linear(self.heads * head, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch seq width"]) -> Float[Array, "batch seq width"]:
        batch, seq, width = x.shape
        flat = x.reshape(batch * seq, width)  # one long axis: faster products than two
        q = self.q_proj(flat).reshape(batch, seq, self.heads, -1)
        k = self.k_proj(flat).reshape(batch, seq, self.kv_heads, -1)
        v = self.v_proj(flat).reshape(batch, seq, self.kv_heads, -1)
        q, k = rotary(q, theta=self.rope_theta), rotary(k, theta=self.rope_theta)
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.reshape(batch * seq, -1)).reshape(batch, seq, width)


class MLP(nnx.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(width, inner, rngs=rngs)
        self.up_proj = Linear(width, inner, rngs=rngs)
        self.down_proj = Linear(inner, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch seq width"]) -> Float[Array, "batch seq width"]:
        flat = x.reshape(-1, x.shape[-1])
        inner = jax.nn.silu(self.gate_proj(flat)) * self.up_proj(flat)
        return self.down_proj(inner).reshape(x.shape)


class Block(nnx.Module):
    """Attention and MLP, each after a norm and around a residual."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        self.input_norm = RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps)
        self.attention = Attention(config, rngs=rngs)
        self.post_attention_norm = RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(self, x: Float[Array, "batch seq width"]) -> Float[Array, "batch seq width"]:
        x = x + self.attention(self.input_norm(x))
        return x + self.mlp(self.post_attention_norm(x))


class Decoder(nnx.Module):
    """Tokens to logits. The blocks' parameters are stacked: leaves `[layers, ...]`, one scan.

    Raises `ValueError` for sizes that do not fit each other.
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        _check(config)
        width = config.hidden_size
        scale = nnx.initializers.normal(width**-0.5)
        self.embedding = nnx.Param(scale(rngs.params(), (config.vocab_size, width)))
        layers = nnx.split_rngs(splits=config.num_hidden_layers)
        self.blocks = layers(nnx.vmap(lambda rngs: Block(config, rngs=rngs)))(rngs)
        self.norm = RMSNorm(width, epsilon=config.rms_norm_eps)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(width, config.vocab_size, rngs=rngs)
        self.remat = config.remat

    def __call__(self, tokens: Int[Array, "batch seq"]) -> Float[Array, "batch seq vocab"]:
        graph, layers = nnx.split(self.blocks)

        def block(x: Float[Array, "batch seq width"], layer: PyTree) -> tuple:
            return nnx.merge(graph, layer)(x), None

        x = self.embedding[...][tokens]
        x, _ = jax.lax.scan(jax.checkpoint(block) if self.remat else block, x, layers)
        flat = self.norm(x).reshape(-1, x.shape[-1])
        logits = flat @ self.embedding[...].T if self.head is None else self.head(flat)
        return logits.reshape(*tokens.shape, -1)


def rotary(
    x: Float[Array, "batch seq heads head"], *, theta: float
) -> Float[Array, "batch seq heads head"]:
    """Turn the two halves of each head by angles that grow with the position (Su et al. 2021,
    arXiv:2104.09864, in the layout of `transformers`).
    """
    half = x.shape[-1] // 2
    rates = theta ** (-jnp.arange(half) / half)
    angles = jnp.arange(x.shape[1])[:, None, None] * rates
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def _check(config: DecoderConfig) -> None:
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    ):
        if getattr(config, name) < 1:
            raise ValueError(
                f"DecoderConfig: {name} must be at least 1, got {getattr(config, name)!r}."
            )
    if config.hidden_size % (2 * config.num_attention_heads):
        raise ValueError(
            "DecoderConfig: hidden_size must be a multiple of 2 * num_attention_heads (rotary "
            f"embeddings turn pairs), got {config.hidden_size} and {config.num_attention_heads}."
        )
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            "DecoderConfig: num_attention_heads must be a multiple of num_key_value_heads, got "
            f"{config.num_attention_heads} and {config.num_key_value_heads}."
        )
