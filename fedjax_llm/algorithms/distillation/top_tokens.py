"""Distributions over tokens as their likeliest ones: made, sent, averaged and learnt from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8


class Likeliest(NamedTuple):
    """Of each distribution the likeliest tokens, and how likely they are."""

    ids: Int[Array, "*axes top"]
    probabilities: Float[Array, "*axes top"]


class Coded(NamedTuple):
    """`Likeliest` on its way."""

    ids: UInt8[Array, " bytes"] | None
    """Each in ceil(log2(vocab)) bits; none where all tokens are sent, in order."""
    probabilities: PyTree
    """As a codec codes them."""


class TokenChannel(NamedTuple):
    """How distributions at some positions travel."""

    send: Callable[[Key[Array, ""], Likeliest], Coded]
    receive: Callable[[Coded], Likeliest]


def token_channel(codec: Compressor, shape: tuple[int, ...], *, vocab: int) -> TokenChannel:
    """Messages of `shape`, `[*axes, top]`; the probabilities through a codec, in float32."""
    bits = (vocab - 1).bit_length()
    like = jax.ShapeDtypeStruct(shape, jnp.float32)
    whole = shape[-1] == vocab

    def send(key: Key[Array, ""], sent: Likeliest) -> Coded:
        payload, _ = codec.encode(key, sent.probabilities, codec.init(like))
        if whole:
            return Coded(None, payload)
        return Coded(pack(sent.ids.astype(jnp.uint32).reshape(-1), bits=bits), payload)

    def receive(sent: Coded) -> Likeliest:
        probabilities = codec.decode(sent.probabilities, like)
        if sent.ids is None:
            return Likeliest(jnp.broadcast_to(jnp.arange(vocab), shape), probabilities)
        ids = unpack(sent.ids, like.size, bits=bits).astype(jnp.int32)
        return Likeliest(ids.reshape(shape), probabilities)

    return TokenChannel(send, receive)


def likeliest(probabilities: Float[Array, "*axes vocab"], top: int) -> Likeliest:
    """The `top` likeliest tokens of each distribution, all of them in order where that is all."""
    vocab = probabilities.shape[-1]
    if top == vocab:
        return Likeliest(jnp.broadcast_to(jnp.arange(vocab), probabilities.shape), probabilities)
    largest, ids = jax.lax.top_k(probabilities, top)
    return Likeliest(ids, largest)


def spread(
    total: Float[Array, "*axes vocab"], sent: Likeliest, weight: Float[Array, ""]
) -> Float[Array, "*axes vocab"]:
    """`total` with the weighted probabilities added where their tokens are; others count as 0."""
    vocab = total.shape[-1]
    rows = jnp.arange(total.size // vocab)[:, None]
    ids, values = (leaf.reshape(len(rows), -1) for leaf in sent)
    added = total.reshape(-1, vocab).at[rows, ids].add(weight * values, mode="drop")
    return added.reshape(total.shape)


def cross_entropy(target: Likeliest, logits: Float[Array, "*axes vocab"]) -> Float[Array, "*axes"]:
    """Of a model's distribution to what is known of another, in nats at each position.

    All other tokens are one outcome, of the probability that is left: it is so of the model, too,
    and its gradient is zero where the two agree on the likeliest tokens, whatever else they say.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    known = jnp.maximum(target.probabilities, 0.0)
    known = known / jnp.maximum(known.sum(axis=-1, keepdims=True), 1.0)
    value = -(known * jnp.take_along_axis(log_p, target.ids, axis=-1)).sum(axis=-1)
    if target.ids.shape[-1] == logits.shape[-1]:
        return value
    others = jnp.put_along_axis(log_p, target.ids, -jnp.inf, axis=-1, inplace=False)
    left = jnp.maximum(1.0 - known.sum(axis=-1), 0.0)
    return value - left * jax.nn.logsumexp(others, axis=-1)
