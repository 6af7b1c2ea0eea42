"""Distributions over tokens, reduced to the most likely ones, to send and to learn from."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8


class Likeliest(NamedTuple):
    """The most likely tokens of each distribution, and their probabilities.

    Attributes:
        ids: Tokens: `[*axes, top]`.
        probabilities: Their probabilities: `[*axes, top]`.

    """

    ids: Int[Array, "*axes top"]
    probabilities: Float[Array, "*axes top"]


class Coded(NamedTuple):
    """Payload of a `Likeliest`.

    Attributes:
        ids: The tokens in ceil(log2(vocab)) bits each, packed; None if all tokens are sent, in
            order.
        probabilities: The probabilities, through a codec.

    """

    ids: UInt8[Array, " bytes"] | None
    probabilities: PyTree


class TokenChannel(NamedTuple):
    """Functions that send distributions at some positions.

    Attributes:
        send: `(key, likeliest) -> coded`.
        receive: `(coded) -> likeliest`.

    """

    send: Callable[[Key[Array, ""], Likeliest], Coded]
    receive: Callable[[Coded], Likeliest]


def token_channel(codec: Compressor, shape: tuple[int, ...], *, vocab: int) -> TokenChannel:
    """Build the channel of a `Likeliest` of `shape`, `[*axes, top]`; the codec gets float32."""
    bits = (vocab - 1).bit_length()
    like = jax.ShapeDtypeStruct(shape, jnp.float32)
    all_tokens = shape[-1] == vocab

    def send(key: Key[Array, ""], sent: Likeliest) -> Coded:
        payload, _ = codec.encode(key, sent.probabilities, codec.init(like))
        if all_tokens:
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
    """Select the `top` most likely tokens of each distribution; all of them stay in order."""
    vocab = probabilities.shape[-1]
    if top == vocab:
        return Likeliest(jnp.broadcast_to(jnp.arange(vocab), probabilities.shape), probabilities)
    largest, ids = jax.lax.top_k(probabilities, top)
    return Likeliest(ids, largest)


def spread(
    total: Float[Array, "*axes vocab"], sent: Likeliest, weight: Float[Array, ""]
) -> Float[Array, "*axes vocab"]:
    """Add weight * probability to `total` at each token; drop tokens outside the vocabulary."""
    vocab = total.shape[-1]
    rows = jnp.arange(total.size // vocab)[:, None]
    ids, values = (leaf.reshape(len(rows), -1) for leaf in sent)
    added = total.reshape(-1, vocab).at[rows, ids].add(weight * values, mode="drop")
    return added.reshape(total.shape)


def cross_entropy(target: Likeliest, logits: Float[Array, "*axes vocab"]) -> Float[Array, "*axes"]:
    """Compute the cross-entropy of a model to the known tokens of a target, in nats per position.

    All other tokens count as one outcome, with the remaining probability, for the target and for
    the model. So the gradient is zero if the two agree on the known tokens, whatever the model says
    of the others.
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
