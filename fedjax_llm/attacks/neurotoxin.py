"""Neurotoxin (Zhang et al. 2022, arXiv:2206.10341)."""

import jax
import jax.numpy as jnp
from fedjax_compression.checks import check_number
from fedjax_compression.ops.flat import count, flatten, unflatten
from jaxtyping import Array, Key, PyTree

from .contract import Attack, Known, check_attack, wrapped


def neurotoxin(attack: Attack, top: float | int = 0.05) -> Attack:
    """Keep an attack's update out of the coordinates that honest clients change most.

    What a malicious client of `attack` sends is set to zero in the k = max(1, round(top d)) of all
    d coordinates where the last aggregated update is largest in magnitude, so that later rounds
    overwrite less of it. In the first round, and wherever the last aggregated update is zero, it is
    sent as it is.

    The last aggregated update comes in the downlink, at 4 bits per entry, as for `preconditioned`
    uplinks; a run adds it to the bytes sent to clients. A real client would keep the last model and
    subtract, without those bytes. Only methods that average updates send it.

    Departure from the paper: the update of a round is projected, once, and not the gradient of each
    local step.

    Args:
        attack: The attack, such as `backdoor(...)`.
        top: Share of the coordinates to leave alone, above 0 and below 1. Default: 0.05.

    Returns:
        The `Attack`, `informed`: its uplink is `attackable(codec, informed=True)`.

    Raises:
        TypeError: For anything but an `Attack`.
        ValueError: For a share out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import neurotoxin, scaling
        >>> from fedjax_llm.attacks.contract import Known
        >>> attack = neurotoxin(scaling(fraction=0.1, factor=2), top=0.25)
        >>> known = Known(last=jnp.array([0.1, -3.0, 0.2, 0.0]))
        >>> attack.of(known).update(jax.random.key(0), jnp.ones(4)).tolist()
        [2.0, 0.0, 2.0, 2.0]

    """
    check_attack(attack, who="neurotoxin")
    check_number(top, who="neurotoxin", name="top", above=0, below=1)

    def made(known: Known) -> Attack:
        inner = attack.of(known)

        def update(key: Key[Array, ""], update: PyTree) -> PyTree:
            new = inner.update(key, update) if inner.update else update
            return outside_top(new, known.last, top) if jax.tree.leaves(known.last) else new

        return inner._replace(update=update)

    return wrapped(attack, made, lambda inner: neurotoxin(inner, top))._replace(informed=True)


def outside_top(update: PyTree, last: PyTree, top: float | int) -> PyTree:
    """An update with zeros in the coordinates of largest magnitude of another; see `neurotoxin`."""
    sizes = jnp.abs(flatten(last, who="neurotoxin"))
    _, largest = jax.lax.top_k(sizes, count(top, len(sizes)))
    left = jnp.ones(len(sizes), bool).at[largest].set(False) | (sizes == 0)
    return unflatten(jnp.where(left, flatten(update, who="neurotoxin"), 0.0), update)
