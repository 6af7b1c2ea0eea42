"""What a decoder is made of: sizes, and the choices in which families of models differ."""

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from tyro.conf import Suppress

LayerType = Literal["full_attention", "sliding_attention"]
Activation = Literal["silu", "gelu", "gelu_new", "gelu_pytorch_tanh"]
ModelType = Literal["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2"]


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """All frequencies over a factor (Chen et al. 2023, arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Low frequencies over a factor, high ones as they are, those between blended (Llama 3.1)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and make of a decoder, by the names that `transformers` gives them where it has one.

    The defaults are a small Llama. Only what makes sense for a model from scratch is a flag of
    the command line; `config_from` sets the rest from a `config.json`.
    """

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
    """Recompute whole blocks in the backward pass instead of keeping what their products give."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products. Parameters keep their own; norms, rotations, the softmax and
    logits are float32."""

    model_type: Suppress[ModelType] = "llama"
    """Whose checkpoints have these parameters."""
    head_dim: Suppress[int | None] = None
    """Entries of one attention head; hidden_size / num_attention_heads unless given."""
    max_position_embeddings: Suppress[int] = 2048
    """Longest sequence of learned positions; for rotary ones, only what a checkpoint says."""
    position_embeddings: Suppress[Literal["rotary", "learned"]] = "rotary"
    rope_scaling: Suppress[LinearScaling | Llama3Scaling | None] = None
    rope_local_theta: Suppress[float | None] = None
    """Of sliding layers, which then have no scaling (Gemma 3); as all others unless given."""
    norm: Suppress[Literal["rms", "rms_plus_one", "layer"]] = "rms"
    """x / rms(x) times w, times 1 + w (Gemma), or a layer norm with bias (GPT-2)."""
    norm_placement: Suppress[Literal["pre", "pre_and_post"]] = "pre"
    """Before attention and MLP, or also after each and before its residual sum (Gemma 2)."""
    qk_norm: Suppress[bool] = False
    """Norms of queries and keys over a head, before they are turned (Qwen 3, Gemma 3)."""
    attention_bias: Suppress[Literal["none", "qkv", "all"]] = "none"
    mlp_bias: Suppress[bool] = False
    fused_qkv: Suppress[bool] = False
    """Queries, keys and values from one product (GPT-2)."""
    mlp: Suppress[Literal["gated", "plain"]] = "gated"
    hidden_act: Suppress[Activation] = "silu"
    """gelu_new and gelu_pytorch_tanh are one function."""
    scale_embeddings: Suppress[bool] = False
    """Whether embeddings are multiplied by the root of hidden_size (Gemma)."""
    query_pre_attn_scalar: Suppress[float | None] = None
    """Scores are over its root; head_dim unless given."""
    attn_logit_softcapping: Suppress[float | None] = None
    """c in c * tanh(score / c)."""
    final_logit_softcapping: Suppress[float | None] = None
    sliding_window: Suppress[int | None] = None
    """Tokens that a sliding layer's token sees, itself counted."""
    layer_types: Suppress[tuple[LayerType, ...]] = ()
    """One for each layer; unless given, all sliding where there is a window, and else all full."""

    @property
    def head_size(self) -> int:
        """Entries of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def sliding(self) -> tuple[bool, ...]:
        """Of each layer, whether its attention is cut to the window."""
        if not self.layer_types:
            return (self.sliding_window is not None,) * self.num_hidden_layers
        return tuple(kind == "sliding_attention" for kind in self.layer_types)


def check(config: DecoderConfig) -> None:
    """Raise `ValueError`, naming the field, for values that do not fit each other."""
    for name, kind in get_type_hints(DecoderConfig).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise _error(name, f"one of {', '.join(get_args(kind))}", value)
        if name in _COUNTS and value is not None and value < 1:
            raise ValueError(f"DecoderConfig: {name} must be at least 1, got {value!r}.")
        if name in _POSITIVE and value is not None and not value > 0:
            raise _error(name, "above 0", value)
    if config.head_dim is None and config.hidden_size % (2 * config.num_attention_heads):
        raise ValueError(
            "DecoderConfig: hidden_size must be a multiple of 2 * num_attention_heads (rotary "
            f"embeddings turn pairs), got {config.hidden_size} and {config.num_attention_heads}."
        )
    if config.head_size % 2:
        raise _error("head_dim", "even", config.head_dim)
    if config.num_attention_heads % config.num_key_value_heads:
        raise ValueError(
            "DecoderConfig: num_attention_heads must be a multiple of num_key_value_heads, got "
            f"{config.num_attention_heads} and {config.num_key_value_heads}."
        )
    if config.layer_types and len(config.layer_types) != config.num_hidden_layers:
        raise _error("layer_types", f"{config.num_hidden_layers} entries", config.layer_types)
    if unknown := set(config.layer_types) - set(get_args(LayerType)):
        raise _error("layer_types", f"among {', '.join(get_args(LayerType))}", sorted(unknown))
    if any(config.sliding) and config.sliding_window is None:
        raise _error("sliding_window", "given, as there are sliding layers", None)


_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "head_dim",
    "sliding_window",
)
_POSITIVE = (
    "rope_theta",
    "rope_local_theta",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)


def _error(name: str, expected: str, got: object) -> ValueError:
    return ValueError(f"DecoderConfig: {name}: expected {expected}, got {got!r}.")
