"""An encoder of the BERT family, MiniLM among it, and a classifier on it, in Flax NNX."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .config import Activation, DecoderConfig
from .layers import MLP, Attention, LayerNorm, Linear, View
from .masks import within


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of an encoder, by the names that `transformers` gives them (Devlin et al. 2018)."""

    vocab_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-12
    pooler: bool = True
    """Whether there is a product after the first token, for `Encoder.first`."""
    remat: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products. Norms and the softmax are float32."""

    @property
    def block(self) -> DecoderConfig:
        """The same sizes, as attention and MLP take them."""
        return DecoderConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_attention_heads,
            hidden_act=self.hidden_act,
            norm="layer",
            position_embeddings="learned",
            attention_bias="all",
            mlp_bias=True,
            mlp="plain",
        )


class EncoderBlock(nnx.Module):
    """Attention in both directions and MLP, each around a residual and before a norm."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        width, epsilon = config.hidden_size, config.layer_norm_eps
        self.attention = Attention(config.block, rngs=rngs)
        self.attention_norm = LayerNorm(width, epsilon=epsilon)
        self.mlp = MLP(config.block, rngs=rngs)
        self.mlp_norm = LayerNorm(width, epsilon=epsilon)

    def __call__(
        self, x: Float[Array, "batch seq width"], mask: Bool[Array, "#batch 1 seq seq"]
    ) -> Float[Array, "batch seq width"]:
        mixed, _ = self.attention(x, View(None, mask), None)
        x = self.attention_norm(x + mixed)
        return self.mlp_norm(x + self.mlp(x))


class Encoder(nnx.Module):
    """Tokens to one vector each. The blocks' parameters are stacked: leaves `[layers, ...]`.

    A token sees all of its own segment: `segments` numbers the texts that are packed into a row,
    and 0 is padding, whose vectors are finite and mean nothing. Positions count from 0 in each
    segment. `types` tell the parts of a pair, all 0 unless given.
    Cost: attention keeps batch * heads * seq * seq scores.
    Raises `ValueError` for heads that do not divide the width, and for a sequence that is longer
    than positions go.
    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        if config.hidden_size % config.num_attention_heads:
            raise ValueError(
                "EncoderConfig: hidden_size must be a multiple of num_attention_heads, got "
                f"{config.hidden_size} and {config.num_attention_heads}."
            )
        self.config, width = config, config.hidden_size
        scale = nnx.initializers.normal(width**-0.5)

        def table(rows: int) -> nnx.Param:
            return nnx.Param(scale(rngs.params(), (rows, width)))

        self.embedding = table(config.vocab_size)
        self.position_embedding = table(config.max_position_embeddings)
        self.type_embedding = table(config.type_vocab_size)
        self.embedding_norm = LayerNorm(width, epsilon=config.layer_norm_eps)
        layers = nnx.split_rngs(splits=config.num_hidden_layers)
        self.blocks = layers(nnx.vmap(lambda rngs: EncoderBlock(config, rngs=rngs)))(rngs)
        self.pooler = Linear(width, width, bias=True, rngs=rngs) if config.pooler else None

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        *,
        segments: Int[Array, "batch seq"] | None = None,
        types: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq width"]:
        c, seq = self.config, tokens.shape[1]
        if seq > c.max_position_embeddings:
            raise ValueError(
                f"Encoder: expected at most {c.max_position_embeddings} tokens "
                f"(max_position_embeddings), got {seq}."
            )
        segments = jnp.ones((1, seq), jnp.int32) if segments is None else segments
        x = self.embedding[...][tokens] + self.position_embedding[...][within(segments)]
        x = x + self.type_embedding[...][jnp.zeros((1, seq), jnp.int32) if types is None else types]
        x = self.embedding_norm(x).astype(c.dtype)
        mask = (segments[:, :, None] == segments[:, None, :])[:, None]
        graph, layers = nnx.split(self.blocks)

        def block(x: Float[Array, "batch seq width"], layer: PyTree) -> tuple:
            return nnx.merge(graph, layer)(x, mask), None

        return jax.lax.scan(jax.checkpoint(block) if c.remat else block, x, layers)[0]

    def first(self, hidden: Float[Array, "batch seq width"]) -> Float[Array, "batch width"]:
        """BERT's pooled output: tanh of a product of the first token's vector.

        Raises `ValueError` for an encoder without a pooler.
        """
        if self.pooler is None:
            raise ValueError(
                "Encoder.first: expected an encoder with pooler=True, got one without."
            )
        return jnp.tanh(self.pooler(hidden[:, 0]))


def mean_pool(
    hidden: Float[Array, "batch seq width"], segments: Int[Array, "batch seq"] | None = None
) -> Float[Array, "batch width"]:
    """The mean of the vectors of a row's tokens, in float32; zero for a row of padding alone."""
    there = jnp.ones(hidden.shape[:2]) if segments is None else segments != 0
    there = there.astype(jnp.float32)[..., None]
    return (hidden.astype(jnp.float32) * there).sum(axis=1) / there.sum(axis=1).clip(1)


class Classifier(nnx.Module):
    """Tokens to float32 scores of labels: an encoder, one vector of a text, and a product.

    The vector is BERT's pooled first token, or the mean (`pooling="mean"`; its encoder needs no
    pooler). A row holds one text and padding.
    Raises `ValueError` for fewer than two labels, and what `Encoder` raises.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        labels: int,
        pooling: Literal["first", "mean"] = "first",
        rngs: nnx.Rngs,
    ) -> None:
        if labels < 2:
            raise ValueError(f"Classifier: labels must be at least 2, got {labels!r}.")
        if pooling == "first" and not config.pooler:
            raise ValueError('Classifier: pooling "first" needs a config with pooler=True.')
        self.pooling = pooling
        self.encoder = Encoder(config, rngs=rngs)
        self.classifier = Linear(config.hidden_size, labels, bias=True, rngs=rngs)

    def __call__(
        self,
        tokens: Int[Array, "batch seq"],
        *,
        segments: Int[Array, "batch seq"] | None = None,
        types: Int[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch labels"]:
        hidden = self.encoder(tokens, segments=segments, types=types)
        mean_of = self.pooling == "mean"
        pooled = mean_pool(hidden, segments) if mean_of else self.encoder.first(hidden)
        return self.classifier(pooled).astype(jnp.float32)
