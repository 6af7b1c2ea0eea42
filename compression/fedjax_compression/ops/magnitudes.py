"""Magnitudes: the largest of a tensor, and powers of two near them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def largest_magnitude(x: Float[Array, "..."], *, axis: int | None = None) -> Float32[Array, "..."]:
    """Max |x| over an axis or all of them; a NaN where there is one, and zero of no entries.

    Taken of the bits, whose order as integers is that of magnitudes, with NaNs above infinity: on a
    CPU, XLA's maximum of more than some 2,000 floats leaves NaNs out.
    """
    bits = jax.lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)
    return jax.lax.bitcast_convert_type(bits.max(axis=axis, initial=0), jnp.float32)


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
