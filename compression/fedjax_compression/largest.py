"""The largest magnitude of a tensor, which is how what is not finite is seen."""

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
