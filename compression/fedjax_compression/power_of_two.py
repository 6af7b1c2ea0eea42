"""Powers of two that keep squares within float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def near_power(magnitude: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """The power of two at or below a magnitude, and its inverse; both from 2^-126 to 2^126.

    Multiplying by either is exact. A magnitude that is not finite has the largest power, zero the
    smallest.
    """
    exponent = jax.lax.bitcast_convert_type(magnitude.astype(jnp.float32), jnp.uint32) >> 23
    exponent = (exponent & 255).clip(1, 253)
    return (
        jax.lax.bitcast_convert_type(exponent << 23, jnp.float32),
        jax.lax.bitcast_convert_type((254 - exponent) << 23, jnp.float32),
    )
