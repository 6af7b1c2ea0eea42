"""The model in plain `jax.numpy`, which old and new versions of JAX run alike.

FedJAX trains it; `run.py` computes every rival's final loss with it.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def loss(
    params: Mapping[str, jax.Array],
    rows: jax.Array,
    *,
    heads: int,
    theta: float,
    epsilon: float,
) -> jax.Array:
    """Mean cross-entropy of the next token, in nats, over rows `[batch, seq + 1]`."""
    tokens, targets = rows[:, :-1], rows[:, 1:]
    x = params["embedding"][tokens]
    batch, seq, width = x.shape
    half = width // heads // 2
    angles = jnp.arange(seq)[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    causal = jnp.tril(jnp.ones((seq, seq), bool))

    def norm(x: jax.Array, scale: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon) * scale

    def rotated(x: jax.Array) -> jax.Array:
        first, second = x[..., :half], x[..., half:]
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(batch, seq, heads, 2 * half).swapaxes(1, 2)

    for layer in range(params["q"].shape[0]):
        p = {name: value[layer] for name, value in params.items() if value.ndim > 1}
        y = norm(x, params["before_attention"][layer])
        q, k, v = rotated(split(y @ p["q"])), rotated(split(y @ p["k"])), split(y @ p["v"])
        scores = jnp.where(causal, q @ k.swapaxes(2, 3) / (2 * half) ** 0.5, -jnp.inf)
        mixed = (jax.nn.softmax(scores, -1) @ v).swapaxes(1, 2).reshape(batch, seq, width)
        x = x + mixed @ p["o"]
        y = norm(x, params["before_mlp"][layer])
        x = x + (jax.nn.silu(y @ p["gate"]) * (y @ p["up"])) @ p["down"]
    logits = norm(x, params["norm"]) @ params["embedding"].T
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
    return -jnp.mean(chosen)
