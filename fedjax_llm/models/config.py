"""Configuration of a decoder: its sizes, and the choices in which model families differ."""

from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from fedjax_compression.checks import check_choice, check_integer, check_kind, check_number
from tyro.conf import Suppress

LayerType = Literal["full_attention", "sliding_attention"]
Activation = Literal["silu", "gelu", "gelu_new", "gelu_pytorch_tanh"]
ModelType = Literal["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2"]


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Rotary scaling that divides every frequency by a factor (Chen et al. 2023, arXiv:2306.15595).

    Attributes:
        factor: Divisor of the frequencies, above 0.

    Example:
        >>> from fedjax_llm.models import DecoderConfig, LinearScaling
        >>> DecoderConfig(rope_scaling=LinearScaling(factor=4.0)).rope_scaling
        LinearScaling(factor=4.0)

    """

    factor: float


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Rotary scaling of Llama 3.1: divide low frequencies by a factor and keep high ones.

    Let n be the number of turns that a pair makes in the original context. Frequencies with n up
    to `low_freq_factor` are divided by `factor`, those with n from `high_freq_factor` on are kept,
    and those between are a linear blend of both.

    Attributes:
        factor: Divisor of the low frequencies, above 0.
        low_freq_factor: Turns up to which a frequency is low.
        high_freq_factor: Turns from which a frequency is high; above `low_freq_factor`.
        original_max_position_embeddings: Tokens in the original context.

    Example:
        >>> from fedjax_llm.models import Llama3Scaling
        >>> Llama3Scaling(
        ...     factor=8.0,
        ...     low_freq_factor=1.0,
        ...     high_freq_factor=4.0,
        ...     original_max_position_embeddings=8192,
        ... ).factor
        8.0

    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and structure of a decoder, with the field names of `transformers` where it has them.

    The defaults describe a small Llama. The command line offers the fields that make sense for a
    model trained from scratch; `config_from` sets the others from a `config.json`.

    The values are checked when a `Decoder` is built, not here.

    Attributes:
        vocab_size: Number of token ids.
        hidden_size: Entries of each token's hidden vector.
        intermediate_size: Entries of the MLP's inner vector.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads, a divisor of num_attention_heads. With
            fewer than num_attention_heads, each serves several query heads (grouped-query
            attention).
        rope_theta: Base of the rotary frequencies.
        rms_norm_eps: Epsilon of all norms, layer norms included.
        tie_word_embeddings: Use the transposed embedding as the output head.
        remat: Recompute whole blocks in the backward pass, instead of keeping the results of
            products with weights.
        dtype: Type of activations and products. Parameters keep their own type; norms, rotations,
            the softmax and logits are computed in float32.
        model_type: Family whose tensor names and `config.json` layout are read and written.
        head_dim: Entries of one attention head; None (the default) for
            hidden_size / num_attention_heads.
        max_position_embeddings: Number of learned positions. With rotary positions it limits
            nothing and is only recorded.
        position_embeddings: "rotary" or "learned".
        rope_scaling: Scaling of the rotary frequencies; None (the default) for none.
        rope_local_theta: Base of the unscaled rotary frequencies of sliding-window layers
            (Gemma 3); None (the default) if these layers use rope_theta and rope_scaling as well.
        norm: "rms" for x / rms(x) * w, "rms_plus_one" for x / rms(x) * (1 + w) (Gemma), "layer"
            for a layer norm with bias (GPT-2).
        norm_placement: "pre" for norms before attention and MLP; "pre_and_post" for further norms
            after each, before the residual sum (Gemma 2).
        qk_norm: Normalise the queries and keys of each head before rotation (Qwen 3, Gemma 3).
        attention_bias: Attention projections with a bias: "none", "qkv" (queries, keys and
            values) or "all".
        mlp_bias: Give the projections of the MLP a bias.
        fused_qkv: Compute queries, keys and values in one product (GPT-2).
        mlp: "gated" for down(act(gate(x)) * up(x)), "plain" for down(act(up(x))).
        hidden_act: Activation of the MLP; "gelu_new" and "gelu_pytorch_tanh" are the same function.
        scale_embeddings: Multiply embeddings by the square root of hidden_size (Gemma).
        query_pre_attn_scalar: Attention scores are divided by its square root; None (the default)
            for the entries of one head.
        attn_logit_softcapping: The c in c * tanh(score / c) for attention scores; None (the
            default) for no cap.
        final_logit_softcapping: The c in c * tanh(logit / c) for output logits; None (the default)
            for no cap.
        sliding_window: Number of tokens, itself included, that a token attends to in a sliding
            layer; None (the default) for no window.
        layer_types: Attention type of each layer. Empty (the default) for all sliding if
            sliding_window is given, otherwise all full.

    Example:
        >>> from fedjax_llm.models import DecoderConfig
        >>> config = DecoderConfig(num_hidden_layers=3, sliding_window=16)
        >>> config.head_size
        16
        >>> config.sliding
        (True, True, True)

    """

    vocab_size: int = 256
    hidden_size: int = 64
    intermediate_size: int = 172
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    remat: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    model_type: Suppress[ModelType] = "llama"
    head_dim: Suppress[int | None] = None
    max_position_embeddings: Suppress[int] = 2048
    position_embeddings: Suppress[Literal["rotary", "learned"]] = "rotary"
    rope_scaling: Suppress[LinearScaling | Llama3Scaling | None] = None
    rope_local_theta: Suppress[float | None] = None
    norm: Suppress[Literal["rms", "rms_plus_one", "layer"]] = "rms"
    norm_placement: Suppress[Literal["pre", "pre_and_post"]] = "pre"
    qk_norm: Suppress[bool] = False
    attention_bias: Suppress[Literal["none", "qkv", "all"]] = "none"
    mlp_bias: Suppress[bool] = False
    fused_qkv: Suppress[bool] = False
    mlp: Suppress[Literal["gated", "plain"]] = "gated"
    hidden_act: Suppress[Activation] = "silu"
    scale_embeddings: Suppress[bool] = False
    query_pre_attn_scalar: Suppress[float | None] = None
    attn_logit_softcapping: Suppress[float | None] = None
    final_logit_softcapping: Suppress[float | None] = None
    sliding_window: Suppress[int | None] = None
    layer_types: Suppress[tuple[LayerType, ...]] = ()

    @property
    def head_size(self) -> int:
        """Entries of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings of tokens."""
        return self.hidden_size**0.5 if self.scale_embeddings else 1.0

    @property
    def sliding(self) -> tuple[bool, ...]:
        """For each layer, whether its attention is limited to the window."""
        if not self.layer_types:
            return (self.sliding_window is not None,) * self.num_hidden_layers
        return tuple(kind == "sliding_attention" for kind in self.layer_types)


def check(config: DecoderConfig) -> None:
    """Raise `ValueError` that names the field for values out of range or that contradict another.

    Raises `TypeError` for a `rope_scaling` that is not one of the scaling classes.
    """
    for name, kind in get_type_hints(DecoderConfig).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal:
            check_choice(value, get_args(kind), who=_WHO, name=name)
        if name in _COUNTS and value is not None:
            most = MOST_LAYERS if name == "num_hidden_layers" else 2**31 - 1
            check_integer(value, who=_WHO, name=name, at_least=1, at_most=most)
        if name in _POSITIVE and value is not None:
            check_number(value, who=_WHO, name=name, above=0)
    if config.rope_scaling is not None:
        check_kind(
            config.rope_scaling,
            (LinearScaling, Llama3Scaling),
            who=_WHO,
            name="rope_scaling",
            expected="a LinearScaling, a Llama3Scaling or None",
            remedy="config_from reads the mapping of a config.json",
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if config.head_dim is None and config.hidden_size % (2 * heads):
        raise _error(
            "hidden_size",
            f"a multiple of 2 * num_attention_heads = {2 * heads}, as heads have an even size",
            config.hidden_size,
        )
    if config.head_size % 2:
        raise _error("head_dim", "an even number", config.head_dim)
    if heads % kv_heads:
        raise _error(
            "num_attention_heads", f"a multiple of num_key_value_heads = {kv_heads}", heads
        )
    if config.layer_types and len(config.layer_types) != config.num_hidden_layers:
        raise _error("layer_types", f"{config.num_hidden_layers} entries", config.layer_types)
    if unknown := set(config.layer_types) - set(get_args(LayerType)):
        expected = f"entries out of {', '.join(get_args(LayerType))}"
        raise _error("layer_types", expected, sorted(unknown))
    if any(config.sliding) and config.sliding_window is None:
        raise _error("sliding_window", "a number, as layer_types has sliding layers", None)


MOST_LAYERS = 10_000
"""More are refused before anything is listed for each."""
_WHO = "DecoderConfig"
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
    "rms_norm_eps",
    "rope_theta",
    "rope_local_theta",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
)


def _error(name: str, expected: str, got: object) -> ValueError:
    return ValueError(f"{_WHO}: {name}: expected {expected}, got {got!r}.")
