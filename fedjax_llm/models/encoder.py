"""Encoder of the BERT family, which includes MiniLM, and a classifier on it, in Flax NNX."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_choice, check_integer, check_kind
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .config import Activation, DecoderConfig
from .layers import MLP, Attention, LayerNorm, Linear, View
from .masks import positions_in_segments


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of a BERT encoder (Devlin et al. 2018), with the field names of `transformers`.

    The values are checked when an `Encoder` is built, not here.

    Attributes:
        vocab_size: Number of token ids.
        hidden_size: Entries of each token's hidden vector.
        intermediate_size: Entries of the MLP's inner vector.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Number of heads, a divisor of hidden_size.
        max_position_embeddings: Number of learned positions.
        type_vocab_size: Number of token types, which tell the texts of a pair apart.
        hidden_act: Activation of the MLP.
        layer_norm_eps: Epsilon of the layer norms.
        pooler: Give the encoder the projection of the first token that `Encoder.first` needs.
        remat: Recompute each block in the backward pass, instead of keeping its activations.
        dtype: Type of activations and products. Norms and the softmax are computed in float32.

    Example:
        >>> from fedjax_llm.models import EncoderConfig
        >>> EncoderConfig(num_hidden_layers=6).intermediate_size
        256

    """

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
    remat: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def block(self) -> DecoderConfig:
        """The same sizes as a `DecoderConfig`, for the shared attention and MLP layers."""
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
    """Bidirectional attention and MLP, each with a residual around it and a norm after it."""

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
    """Bidirectional language model: tokens to one hidden vector each.

    Kernels are drawn from a normal distribution of variance 1 / inputs, embeddings of variance
    1 / hidden_size; biases start at 0, and norms scale by 1. The parameters of the blocks are
    stacked in leaves `[layers, ...]`.

    A token attends to all tokens of its segment. `segments` numbers the texts that are packed
    into a row. Segment 0 is padding: its vectors are finite and without meaning. Positions count
    from 0 in each segment.

    Memory: attention keeps batch * heads * seq * seq scores.

    Args:
        config: Sizes and structure.
        rngs: Source of the initial parameters.

    Raises:
        TypeError: `config` is not an `EncoderConfig`.
        ValueError: A size is not an integer of at least 1, a choice is unknown, or
            num_attention_heads does not divide hidden_size.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from fedjax_llm.models import Encoder, EncoderConfig
        >>> config = EncoderConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=16)
        >>> model = Encoder(config, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((1, 5), jnp.int32)).shape
        (1, 5, 8)

    """

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        check_encoder(config, who="Encoder")
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
        """Compute the hidden vector of each token.

        Args:
            tokens: Token ids `[batch, seq]`.
            segments: Segment of each token, 0 for padding; one segment per row by default.
            types: Type of each token, which tells the texts of a pair apart; all 0 by default.

        Returns:
            Hidden vectors `[batch, seq, width]` in `config.dtype`.

        Raises:
            ValueError: The sequence is longer than the learned positions.

        """
        c, seq = self.config, tokens.shape[1]
        if seq > c.max_position_embeddings:
            raise ValueError(
                f"Encoder: tokens: expected at most {c.max_position_embeddings} in a row "
                f"(max_position_embeddings), got {seq}."
            )
        segments = jnp.ones((1, seq), jnp.int32) if segments is None else segments
        positions = positions_in_segments(segments)
        x = self.embedding[...][tokens] + self.position_embedding[...][positions]
        x = x + self.type_embedding[...][jnp.zeros((1, seq), jnp.int32) if types is None else types]
        x = self.embedding_norm(x).astype(c.dtype)
        mask = (segments[:, :, None] == segments[:, None, :])[:, None]
        graph, layers = nnx.split(self.blocks)

        def block(x: Float[Array, "batch seq width"], layer: PyTree) -> tuple:
            return nnx.merge(graph, layer)(x, mask), None

        return jax.lax.scan(jax.checkpoint(block) if c.remat else block, x, layers)[0]

    def first(self, hidden: Float[Array, "batch seq width"]) -> Float[Array, "batch width"]:
        """Compute BERT's pooled output: tanh of a linear map of the first token's vector.

        Args:
            hidden: Hidden vectors `[batch, seq, width]` of a call.

        Returns:
            One vector per row, `[batch, width]`.

        Raises:
            ValueError: The encoder has no pooler.

        """
        if self.pooler is None:
            raise ValueError(
                "Encoder.first: config: expected pooler=True, got pooler=False; mean_pool needs no "
                "pooler."
            )
        return jnp.tanh(self.pooler(hidden[:, 0]))


def mean_pool(
    hidden: Float[Array, "batch seq width"], segments: Int[Array, "batch seq"] | None = None
) -> Float[Array, "batch width"]:
    """Average the hidden vectors of each row's tokens, without padding, in float32.

    Args:
        hidden: Hidden vectors `[batch, seq, width]`.
        segments: Segment of each token, 0 for padding; no padding by default.

    Returns:
        One vector per row, `[batch, width]`; zero for a row of padding.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.models import mean_pool
        >>> hidden = jnp.array([[[1.0], [3.0], [8.0]]])
        >>> mean_pool(hidden, jnp.array([[1, 1, 0]])).tolist()
        [[2.0]]

    """
    counted = jnp.ones(hidden.shape[:2]) if segments is None else segments != 0
    counted = counted.astype(jnp.float32)[..., None]
    return (hidden.astype(jnp.float32) * counted).sum(axis=1) / counted.sum(axis=1).clip(1)


class Classifier(nnx.Module):
    """Text classifier: an encoder, one pooled vector per row, and a linear map to label scores.

    A row is one text and padding.

    Args:
        config: Sizes and structure of the encoder.
        labels: Number of labels, at least 2.
        pooling: "first" for BERT's pooled first token (the default), or "mean" for `mean_pool`,
            which needs no pooler.
        rngs: Source of the initial parameters.

    Raises:
        TypeError: `config` is not an `EncoderConfig`.
        ValueError: `labels` or `pooling` is out of range, "first" without a pooler, or as for
            `Encoder`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from fedjax_llm.models import Classifier, EncoderConfig
        >>> config = EncoderConfig(hidden_size=8, num_attention_heads=2, max_position_embeddings=16)
        >>> model = Classifier(config, labels=3, rngs=nnx.Rngs(0))
        >>> model(jnp.zeros((2, 5), jnp.int32)).shape
        (2, 3)

    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        labels: int,
        pooling: Literal["first", "mean"] = "first",
        rngs: nnx.Rngs,
    ) -> None:
        check_encoder(config, who="Classifier")
        check_integer(labels, who="Classifier", name="labels", at_least=2)
        check_choice(pooling, ("first", "mean"), who="Classifier", name="pooling")
        if pooling == "first" and not config.pooler:
            raise ValueError(
                'Classifier: pooling: expected "mean" for a config with pooler=False, got "first".'
            )
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
        """Compute the scores of the labels.

        Args:
            tokens: Token ids `[batch, seq]`, one text in a row.
            segments: 1 for the tokens of the text and 0 for padding; no padding by default.
            types: Type of each token, which tells the texts of a pair apart; all 0 by default.

        Returns:
            Scores `[batch, labels]` in float32, before a softmax.

        Raises:
            ValueError: The sequence is longer than the learned positions.

        """
        hidden = self.encoder(tokens, segments=segments, types=types)
        mean = self.pooling == "mean"
        pooled = mean_pool(hidden, segments) if mean else self.encoder.first(hidden)
        return self.classifier(pooled).astype(jnp.float32)


def check_encoder(config: EncoderConfig, *, who: str) -> None:
    """Raise `TypeError` for another kind of config and `ValueError` for a value out of range."""
    check_kind(config, EncoderConfig, who=who, name="config", expected="an EncoderConfig")
    for name in _SIZES:
        check_integer(getattr(config, name), who="EncoderConfig", name=name, at_least=1)
    check_choice(config.hidden_act, get_args(Activation), who="EncoderConfig", name="hidden_act")
    check_choice(config.dtype, ("float32", "bfloat16"), who="EncoderConfig", name="dtype")
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            "EncoderConfig: hidden_size: expected a multiple of num_attention_heads = "
            f"{config.num_attention_heads}, got {config.hidden_size}."
        )


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
)
