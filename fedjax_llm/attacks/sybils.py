"""Sybils: clients of one adversary that act as one (Fung et al. 2020, arXiv:1808.04866)."""

from fedjax_compression.checks import check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Bool, Key, PyTree

from ..aggregators.rows import finite_rows, mean_of
from ..privacy import add_noise
from .contract import Attack, Known, check_attack, wrapped


def sybils(attack: Attack, std: float | int = 0.0) -> Attack:
    """Send one update from all malicious clients of an attack, with a little noise of each.

    The update is what `attack` makes of the mean of what the malicious clients of the round
    trained (on poisoned data, if it poisons data). `fools_gold` is the rule against clients that
    are alike. Omniscient only in that malicious clients share what they trained.

    Args:
        attack: The attack, such as `backdoor(...)` or `sign_flip(...)`.
        std: Standard deviation of the Gaussian noise that each adds of its own, at least 0.
            Default: 0, so that they send the same.

    Returns:
        The `Attack`.

    Raises:
        TypeError: For anything but an `Attack`.
        ValueError: For a number out of range, and for `neurotoxin(...)`, which goes around.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.attacks import sign_flip, sybils
        >>> updates, honest = jnp.array([[9.0], [1.0], [3.0]]), jnp.array([True, False, False])
        >>> attack = sybils(sign_flip(fraction=0.6))
        >>> attack.craft(jax.random.key(0), updates, honest, ~honest).tolist()
        [-2.0]

    """
    check_attack(attack, who="sybils")
    check_number(std, who="sybils", name="std", at_least=0)
    if attack.informed:
        expected = "an attack that knows no last update"
        remedy = "neurotoxin(sybils(...)) does both"
        raise ValueError(message("sybils", "attack", expected, "neurotoxin(...)", remedy))

    def made(known: Known) -> Attack:
        inner = attack.of(known)

        def craft(
            key: Key[Array, ""],
            updates: PyTree,
            honest: Bool[Array, " clients"],
            bad: Bool[Array, " clients"],
        ) -> PyTree:
            if inner.craft:
                one = inner.craft(key, updates, honest, bad)
            else:
                one = mean_of(bad & finite_rows(updates, len(bad)), updates)
            return inner.update(key, one) if inner.update else one

        return inner._replace(
            craft=craft, update=lambda key, update: add_noise(key, update, std) if std else update
        )

    return wrapped(attack, made, lambda inner: sybils(inner, std))
