"""The largest magnitude of a tensor, and the power of two near a magnitude."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def largest_magnitude(x: Float[Array, "..."], *, axis: int | None = None) -> Float32[Array, "..."]:
    """Largest |x| over one axis or over all entries.

    NaN if any entry is NaN, and zero if there are no entries. The maximum is taken over the bit
    patterns as integers, which sort like magnitudes with NaN above infinity. On a CPU, XLA's
    floating-point maximum of more than about 2,000 entries ignores NaNs.

    Args:
        x: Floating-point entries.
        axis: The axis to reduce; all of them by default.

    Returns:
        The maximum, in float32.

    """
    bits = jax.lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.int32)
    return jax.lax.bitcast_convert_type(bits.max(axis=axis, initial=0), jnp.float32)


def near_power(magnitude: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Largest power of two at or below a magnitude, and its inverse.

    Both are clipped to 2^-126 to 2^126. A magnitude that is not finite gets 2^126, and zero gets
    2^-126. Multiplying a float32 by either is exact unless the result overflows or is subnormal.

    Args:
        magnitude: Non-negative entries.

    Returns:
        The powers and their inverses, in float32.

    """
    exponent = jax.lax.bitcast_convert_type(magnitude.astype(jnp.float32), jnp.uint32) >> 23
    exponent = (exponent & 255).clip(1, 253)
    return (
        jax.lax.bitcast_convert_type(exponent << 23, jnp.float32),
        jax.lax.bitcast_convert_type((254 - exponent) << 23, jnp.float32),
    )


def over_magnitude(x: Float[Array, "..."], magnitude: Float[Array, "..."]) -> Float32[Array, "..."]:
    """Divide by a magnitude of any size, and by 1 where it is zero.

    XLA may divide by multiplying with the reciprocal. That overflows for a subnormal magnitude, and
    is taken for zero for one above 2^126, where it is subnormal. So both sides are first multiplied
    by a power of two that brings the magnitude near 1, which changes no bit of other quotients.

    Args:
        x: Entries whose quotient is no larger than float32 allows.
        magnitude: Non-negative, to be broadcast against `x`.

    """
    magnitude = jnp.where(magnitude == 0, 1.0, magnitude)
    _, inverse = near_power(magnitude)
    return x * inverse / (magnitude * inverse)
