"""Layers of decoders and encoders: linear maps, norms, attention, MLP, blocks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from .config import DecoderConfig
from .packed import Packed
from .rope import rotate

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


class Linear(nnx.Module):
    """Compute x @ kernel + bias in the type of x, or what an adapter computes instead.

    Attributes:
        adapter: `(linear, x) -> y`, which replaces the plain product; None unless an adapter sets
            it on an instance.
        kernel: `[in, out]`, or `[layers, in, out]` in stacked blocks; may be packed.
        bias: `[out]`; None for a map without bias.

    """

    adapter: Callable[["Linear", Array], Array] | None = None
    kernel: nnx.Param | Packed
    bias: nnx.Param | None = None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(inputs**-0.5)
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))
        if bias:
            self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        return self.plain(x) if self.adapter is None else self.adapter(self, x)

    def plain(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        """Compute x @ kernel + bias, without the adapter."""
        y = x @ self.weights(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def weights(self, dtype: Any) -> Float[Array, "*layers in out"]:
        """Return the kernel in a type, unpacked if it is packed."""
        kernel = self.kernel
        return (kernel.unpacked() if isinstance(kernel, Packed) else kernel[...]).astype(dtype)


class RMSNorm(nnx.Module):
    """RMS norm (arXiv:1910.07467): x / rms(x) * scale, or * (1 + scale) with `plus_one`.

    It computes in float32 and returns the type of x.
    """

    def __init__(self, width: int, *, epsilon: float, plus_one: bool = False) -> None:
        self.scale = nnx.Param(jnp.zeros(width) if plus_one else jnp.ones(width))
        self.epsilon, self.plus_one = epsilon, plus_one

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt((wide * wide).mean(axis=-1, keepdims=True) + self.epsilon)
        scale = self.scale[...].astype(jnp.float32)
        return (wide * inverse * (scale + 1 if self.plus_one else scale)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm (arXiv:1607.06450): (x - mean(x)) / deviation(x) * scale + bias.

    It computes in float32 and returns the type of x.
    """

    def __init__(self, width: int, *, epsilon: float) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        wide = x.astype(jnp.float32)
        wide = wide - wide.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt((wide * wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return (wide * inverse * self.scale[...] + self.bias[...]).astype(x.dtype)


def norm(config: DecoderConfig, width: int) -> RMSNorm | LayerNorm:
    """Make the norm that a config names."""
    if config.norm == "layer":
        return LayerNorm(width, epsilon=config.rms_norm_eps)
    return RMSNorm(width, epsilon=config.rms_norm_eps, plus_one=config.norm == "rms_plus_one")


class View(NamedTuple):
    """Rotations and mask of one layer's attention.

    Attributes:
        turns: Sine and cosine that rotate queries and keys; None without rotary positions.
        mask: True where a query attends to a key; None for plain causal attention.

    """

    turns: Float[Array, "2 batch seq 1 half"] | None
    mask: Bool[Array, "batch 1 seq keys"] | None


class Past(NamedTuple):
    """Cached keys and values of all layers, and where the next ones are written.

    Attributes:
        keys: Keys of all layers.
        values: Values of all layers.
        layer: Index of the current layer.
        slot: First slot to write.

    """

    keys: Float[Array, "layers batch slots heads head"]
    values: Float[Array, "layers batch slots heads head"]
    layer: Int[Array, ""]
    slot: Int[Array, ""]

    def extend(self, k: Array, v: Array) -> tuple[Array, Array, "Past"]:
        """Write new keys and values; return the layer's `[batch, slots, ...]` and the new cache."""
        start = (self.layer, 0, self.slot, 0, 0)
        keys = jax.lax.dynamic_update_slice(self.keys, k[None].astype(self.keys.dtype), start)
        values = jax.lax.dynamic_update_slice(self.values, v[None].astype(k.dtype), start)
        return keys[self.layer], values[self.layer], self._replace(keys=keys, values=values)


KEPT = ("attention maxima", "attention sums", "attention numerators")
"""Names of the small results of `attend` that its backward pass needs, for `save_only_these_names`
of `jax.checkpoint`: with them kept, only scores and their exponentials are computed again."""


@jax.named_scope("attend")
def attend(
    q: Float[Array, "batch seq heads head"],
    k: Float[Array, "batch keys kv_heads head"],
    v: Float[Array, "batch keys kv_heads head"],
    *,
    mask: Bool[Array, "#batch 1 seq keys"] | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Array, "batch seq heads head"]:
    """Grouped-query attention with the softmax in float32; causal if the mask is None.

    A softcap c replaces each score by c * tanh(score / c) before the mask (arXiv:2408.00118).
    Memory: batch * heads * seq * keys scores.

    The softmax divides after the product with v, so that its gradient needs sums over a head's
    entries in place of sums over keys (as in arXiv:2205.14135).
    """
    batch, seq, _, head = q.shape
    keys, shared = k.shape[1:3]
    rows = q.reshape(batch, seq, shared, -1, head).transpose(0, 2, 3, 1, 4)
    rows = rows.reshape(batch, shared, -1, head)  # one product for the queries of a key's heads
    k, v = (y.transpose(0, 2, 1, 3) for y in (k, v))
    scores = scale * jnp.matmul(rows, k.swapaxes(2, 3), preferred_element_type=jnp.float32)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if mask is None:
        mask = jnp.tril(jnp.ones((1, 1, seq, keys), bool))
    scores = scores.reshape(batch, shared, -1, seq, keys)
    scores = jnp.where(mask[:, :, None], scores, jnp.finfo(jnp.float32).min)
    maxima, sums, numerators = KEPT
    largest = checkpoint_name(scores.max(axis=-1, keepdims=True), maxima)
    weights = jnp.exp(scores - jax.lax.stop_gradient(largest))
    total = checkpoint_name(weights.sum(axis=-1, keepdims=True), sums)
    weights = weights.reshape(batch, shared, -1, keys).astype(v.dtype)
    mixed = jnp.matmul(weights, v, preferred_element_type=jnp.float32)
    mixed = checkpoint_name(mixed, numerators).reshape(*total.shape[:-1], head) / total
    return mixed.transpose(0, 3, 1, 2, 4).reshape(q.shape).astype(q.dtype)


class Attention(nnx.Module):
    """Grouped-query attention with its projections.

    Attributes:
        prefix: `(k, v) -> (k, v)`, which puts keys and values before those of the text; None
            unless an adapter sets it on an instance.

    """

    prefix: Callable | None = None

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        width, head = config.hidden_size, config.head_size
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale = (config.query_pre_attn_scalar or head) ** -0.5
        self.softcap = config.attn_logit_softcapping
        bias = config.attention_bias != "none"
        inner, shared = self.heads * head, self.kv_heads * head
        self.ends = (inner, inner + shared)  # where queries and keys end in the fused product
        fused = inner + 2 * shared if config.fused_qkv else 0
        self.qkv_proj = Linear(width, fused, bias=bias, rngs=rngs) if fused else None
        self.q_proj = None if fused else Linear(width, inner, bias=bias, rngs=rngs)
        self.k_proj = None if fused else Linear(width, shared, bias=bias, rngs=rngs)
        self.v_proj = None if fused else Linear(width, shared, bias=bias, rngs=rngs)
        self.o_proj = Linear(inner, width, bias=config.attention_bias == "all", rngs=rngs)
        self.q_norm = norm(config, head) if config.qk_norm else None
        self.k_norm = norm(config, head) if config.qk_norm else None

    @jax.named_scope("attention")
    def __call__(
        self, x: Float[Array, "batch seq width"], view: View, past: Past | None
    ) -> tuple[Float[Array, "batch seq width"], Past | None]:
        batch, seq, width = x.shape
        flat = x.reshape(batch * seq, width)  # products with one long axis are faster
        if self.qkv_proj is not None:
            q, k, v = jnp.split(self.qkv_proj(flat), self.ends, axis=-1)
        else:
            q, k, v = (p(flat) for p in (self.q_proj, self.k_proj, self.v_proj))  # type: ignore[misc]
        q = q.reshape(batch, seq, self.heads, -1)
        k, v = (y.reshape(batch, seq, self.kv_heads, -1) for y in (k, v))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)  # type: ignore[misc]
        if view.turns is not None:
            q, k = rotate(q, view.turns), rotate(k, view.turns)
        if past is not None:
            k, v, past = past.extend(k, v)
        if self.prefix is not None:
            k, v = self.prefix(k, v)
        mixed = attend(q, k, v, mask=view.mask, scale=self.scale, softcap=self.softcap)
        return self.o_proj(mixed.reshape(batch * seq, -1)).reshape(batch, seq, width), past


class MLP(nnx.Module):
    """MLP: gated, down(act(gate(x)) * up(x)), or plain, down(act(up(x))).

    Gated with the activation silu is SwiGLU (arXiv:2002.05202).
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        gated = config.mlp == "gated"
        self.gate_proj = Linear(width, inner, bias=bias, rngs=rngs) if gated else None
        self.up_proj = Linear(width, inner, bias=bias, rngs=rngs)
        self.down_proj = Linear(inner, width, bias=bias, rngs=rngs)
        self.act = config.hidden_act

    @jax.named_scope("mlp")
    def __call__(self, x: Float[Array, "batch seq width"]) -> Float[Array, "batch seq width"]:
        flat, act = x.reshape(-1, x.shape[-1]), ACTIVATIONS[self.act]
        if self.gate_proj is None:
            inner = act(self.up_proj(flat))
        else:
            inner = act(self.gate_proj(flat)) * self.up_proj(flat)
        return self.down_proj(inner).reshape(x.shape)


class Block(nnx.Module):
    """Decoder block: attention and MLP, each with a norm before it and a residual around it."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        width, after = config.hidden_size, config.norm_placement == "pre_and_post"
        self.input_norm = norm(config, width)
        self.attention = Attention(config, rngs=rngs)
        self.attention_out_norm = norm(config, width) if after else None
        self.post_attention_norm = norm(config, width)  # before the MLP; Llama's name
        self.mlp = MLP(config, rngs=rngs)
        self.mlp_out_norm = norm(config, width) if after else None

    def __call__(
        self, x: Float[Array, "batch seq width"], view: View, past: Past | None
    ) -> tuple[Float[Array, "batch seq width"], Past | None]:
        y, past = self.attention(self.input_norm(x), view, past)
        x = x + (y if self.attention_out_norm is None else self.attention_out_norm(y))
        y = self.mlp(self.post_attention_norm(x))
        return x + (y if self.mlp_out_norm is None else self.mlp_out_norm(y)), past
