"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), laid out as in `transformers`."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .config import DecoderConfig, LinearScaling, Llama3Scaling


def rates(config: DecoderConfig, *, local: bool = False) -> Float[np.ndarray, " half"]:
    """Radians per position of each pair of a head's entries, computed in float64, as float32.

    `local` asks for the rates of sliding layers, which differ if `rope_local_theta` is given.
    """
    half = config.head_size // 2
    if local and config.rope_local_theta is not None:
        return _plain(config.rope_local_theta, half).astype(np.float32)
    plain, scaling = _plain(config.rope_theta, half), config.rope_scaling
    match scaling:
        case LinearScaling():
            plain = plain / scaling.factor
        case Llama3Scaling():
            plain = _llama3(plain, scaling)
    return plain.astype(np.float32)


def turns(
    positions: Int[Array, "batch seq"], rates: Float[Array | np.ndarray, " half"]
) -> Float[Array, "2 batch seq 1 half"]:
    """Sine and cosine of each position's angles, in float32 for every model dtype."""
    angles = positions[..., None, None].astype(jnp.float32) * rates
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)])


def rotate(
    x: Float[Array, "batch seq heads head"], turns: Float[Array, "2 #batch seq 1 half"]
) -> Float[Array, "batch seq heads head"]:
    """Rotate the pairs (entry i, entry i + head / 2) of each head by their angles, in float32."""
    sin, cos = turns
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def _plain(theta: float, half: int) -> np.ndarray:
    return theta ** (-np.arange(half) / half)


def _llama3(plain: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns_in_context = scaling.original_max_position_embeddings * plain / (2 * np.pi)
    kept = ((turns_in_context - low) / (high - low)).clip(0, 1)
    return kept * plain + (1 - kept) * plain / scaling.factor
