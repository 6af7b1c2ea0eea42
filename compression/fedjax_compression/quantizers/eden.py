"""EDEN: rotate, quantise to the best levels for a Gaussian, and rescale to be unbiased.

Vargaftik et al. 2022, arXiv:2108.08842.
"""

from ..checks import check_number
from ..contract import Compressor
from ..ops.rotated_levels import rotated_levels


def eden(*, bits: int | float) -> Compressor:
    """Rotate the whole update at random and quantise it to `bits` bits per entry, unbiased.

    The levels are those of Lloyd and Max for a Gaussian. The scale ||y||^2 / <y, q> of each block
    of 4096 entries, where y is the rotated block and q its levels, makes the estimate unbiased for
    a uniform rotation (section 3 of the paper). One bit is DRIVE (arXiv:2105.08339). For `bits`
    between two integers, a random subset of each block has the higher rate and the rest the lower
    rate. Below 1, a random share p of the
    entries is sent at one bit, the rest decodes to zero, and the scale is multiplied by 1 / p.
    Shares are rounded to whole entries, at least one.

    Guarantees: unbiased, with E||x - decode||^2 / ||x||^2 equal to pi / (2 bits) - 1 up to 1 bit
    (2.14 at half a bit), and to .571, .317, .133, .0358, .0096 at 1, 1.5, 2, 3, 4 bits. These hold
    to a few percent for any update of at least a few hundred entries, and the error of a mean over
    n clients falls as 1/n. Updates of at most 63 entries have a uniform rotation, and so no bias.
    Longer ones are mixed three times by Hadamard matrices with random angles between (see
    `ops.hadamard`); a single randomised Hadamard rotation, as in the authors' code, is biased for
    updates with few large entries. The error of a mean of 400 messages is 1 / 400 of that of one to
    the accuracy of the measurement, also with 1, 2, 4 or 8 nonzero entries of 4096, one entry 100
    times larger than the others, or entries of a Student t with two degrees of freedom. Zeros are
    exact. A block with a NaN or an infinity decodes to no finite entry.

    Under error feedback, use the scale of least error instead of the unbiased one:
    `error_feedback(least_error_scale(eden(bits=1)))` has error .363 instead of .571.

    Payload: `bits` per entry, 4 bytes per 4096 entries and a seed of 4 bytes. Blocks span leaves.

    Args:
        bits: Bits per entry, above 0 and at most 4.

    Returns:
        A stateless `Compressor`.

    Raises:
        ValueError: If `bits` is not a number above 0 and at most 4.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import eden, wire
        >>> c, x = eden(bits=2), jnp.sin(jnp.arange(1000.0))
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, codes 250, scale 4, seed 4
        270
        >>> left = c.decode(payload, x) - x
        >>> bool((left @ left) / (x @ x) < 0.2)
        True

    """
    check_number(bits, who="eden", name="bits", above=0, at_most=4)
    return rotated_levels(bits=bits, unbiased=True, who="eden")


def drive() -> Compressor:
    """Send the signs of the randomly rotated update, and a scale ||y||^2 / ||y||_1 per block.

    DRIVE (Vargaftik et al. 2021, arXiv:2105.08339) is EDEN at one bit, so this is `eden(bits=1)`
    with the same guarantees and payload. E||x - decode||^2 / ||x||^2 is pi / 2 - 1. Unlike the
    paper, every 4096 entries have a separate scale, because they are rotated in blocks.

    Returns:
        A stateless `Compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import drive, wire
        >>> c, x = drive(), jnp.sin(jnp.arange(1000.0))
        >>> payload, _ = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, signs 125, scale 4, seed 4
        145

    """
    return eden(bits=1)
