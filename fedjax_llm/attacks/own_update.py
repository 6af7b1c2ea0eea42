"""Attacks by what a malicious client knows itself: its own honest update."""

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_number
from jaxtyping import Array, Key, PyTree

from ..precision import cast, float32_zeros
from ..privacy import add_noise
from .contract import Attack, check_fraction


def sign_flip(fraction: float | int) -> Attack:
    """Send minus one's own update.

    Args:
        fraction: Share of all clients that are malicious.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a fraction that is not above 0 and below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import sign_flip
        >>> sign_flip(fraction=0.2).update(jax.random.key(0), jnp.array([1.0, -2.0])).tolist()
        [-1.0, 2.0]

    """
    check_fraction(fraction, who="sign_flip")
    return Attack(fraction, update=lambda key, update: jax.tree.map(jnp.negative, update))


def scaling(fraction: float | int, factor: float | int) -> Attack:
    """Send `factor` times one's own update.

    Model replacement (Bagdasaryan et al. 2020, arXiv:1807.00459) is this with the factor n / eta,
    clients over the server's learning rate, on poisoned data; see `backdoor`.

    Args:
        fraction: Share of all clients that are malicious.
        factor: The factor, a finite number.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import scaling
        >>> attack = scaling(fraction=0.2, factor=10)
        >>> attack.update(jax.random.key(0), jnp.array([1.0, -2.0])).tolist()
        [10.0, -20.0]

    """
    check_fraction(fraction, who="scaling")
    check_number(factor, who="scaling", name="factor")
    return Attack(fraction, update=lambda key, update: jax.tree.map(lambda x: factor * x, update))


def gaussian(fraction: float | int, std: float | int) -> Attack:
    """Send independent Gaussian numbers of mean 0.

    Args:
        fraction: Share of all clients that are malicious.
        std: Their standard deviation, above 0.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import gaussian
        >>> sent = gaussian(fraction=0.2, std=3.0).update(jax.random.key(0), jnp.zeros(10_000))
        >>> 2.9 < float(sent.std()) < 3.1
        True

    """
    check_fraction(fraction, who="gaussian")
    check_number(std, who="gaussian", name="std", above=0)
    return Attack(fraction, update=lambda key, update: _noise(key, update, std))


def free_rider(fraction: float | int, std: float | int = 0.0) -> Attack:
    """Send an update without training: zeros, or a little Gaussian noise in place of work
    (plain and disguised free-riders of Fraboni et al. 2021, arXiv:2006.11901).

    The noise has one standard deviation in all rounds. The simulation still trains the client,
    whose loss is in the round's rows.

    Args:
        fraction: Share of all clients that are malicious.
        std: Standard deviation of the noise, at least 0. Default: 0.

    Returns:
        The `Attack`.

    Raises:
        ValueError: For a number out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import free_rider
        >>> free_rider(fraction=0.2).update(jax.random.key(0), jnp.array([1.0, -2.0])).tolist()
        [0.0, 0.0]

    """
    check_fraction(fraction, who="free_rider")
    check_number(std, who="free_rider", name="std", at_least=0)
    return Attack(fraction, update=lambda key, update: _noise(key, update, std))


def _noise(key: Key[Array, ""], update: PyTree, std: float | int) -> PyTree:
    if std == 0:
        return jax.tree.map(jnp.zeros_like, update)
    return cast(add_noise(key, float32_zeros(update), std), update)
