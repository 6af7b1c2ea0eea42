"""Malicious clients: who they are, and an algorithm some of whose clients attack it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.errors import message
from jaxtyping import Array, Bool, Key, PyTree

from ..algorithm import ClientState, Downlink, FederatedAlgorithm, Uplink
from ..client_training import Batches, ClientInfo, Frozen
from .attackable import Tap, map_taps, taps
from .contract import Attack

ATTACK = 2**32 - 5
"""Folded into keys for attacks; no client and no round has such a number."""


class AttackedBatches(NamedTuple):
    """The batches of a client, or of several, with what an attack needs to know.

    Attributes:
        batches: The batches.
        malicious: Whether the client is malicious: a boolean for each client.
        crafted: What it encodes, for each `Tap` of its state, if that was crafted; else empty.

    """

    batches: Batches
    malicious: Any
    crafted: Sequence[PyTree] = ()

    @property
    def mask(self) -> PyTree:
        """The mask of the batches."""
        return self.batches.mask


class Observed(NamedTuple):
    """An uplink, with what the server decodes from it, for each `Tap` of the client's state."""

    uplink: Uplink
    seen: Sequence[PyTree]


def draw_malicious(
    attack: Attack, key: Key[Array, ""], population: int, *, who: str
) -> Bool[np.ndarray, " population"]:
    """Draw the malicious clients of a run: the first ones of a permutation.

    Raises:
        ValueError: If the fraction is that of no client, or of all.

    """
    count = round(attack.fraction * population)
    if not 0 < count < population:
        expected = f"the share of at least one and not of all of {population} clients"
        raise ValueError(message(who, "attack.fraction", expected, attack.fraction))
    order = np.asarray(jr.permutation(jr.fold_in(key, ATTACK), population))
    malicious = np.zeros(population, bool)
    malicious[order[:count]] = True
    return malicious


def check_attackable(algorithm: FederatedAlgorithm, attack: Attack, params: PyTree) -> None:
    """Raise `ValueError` where an attack on updates finds no `attackable` codec."""
    if attack.batches is not None:
        return
    if not taps(jax.eval_shape(algorithm.client_init, params)):
        expected = "an algorithm built with uplink=attackable(codec), as updates are attacked"
        raise ValueError(message("simulate", "algorithm", expected, "one without"))


def with_attack(algorithm: FederatedAlgorithm, attack: Attack) -> FederatedAlgorithm:
    """The same algorithm for `AttackedBatches`, whose `malicious` clients attack.

    With an attack that crafts, the uplink of a client whose `crafted` is empty is `Observed`: it
    answers honestly, whoever it is.
    """

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        client_state: ClientState,
        attacked: Any,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        batches, malicious = attacked.batches, attacked.malicious
        attack_key = jr.fold_in(key, ATTACK)
        if attack.batches:
            poisoned = attack.batches(attack_key, batches)
            batches = jax.tree.map(lambda p, b: jnp.where(malicious, p, b), poisoned, batches)
            return algorithm.client_update(key, frozen, downlink, client_state, batches)

        def ordered(number: int, tap: Tap) -> Tap:
            if attacked.crafted:
                return tap._replace(order=jax.tree_util.Partial(_instead, attacked.crafted[number]))
            if attack.craft:
                return tap._replace(order=jax.tree_util.Partial(_itself))
            own_key = jr.key_data(jr.fold_in(attack_key, number))
            return tap._replace(order=jax.tree_util.Partial(changed, malicious, own_key))

        def changed(malicious: Any, key: Array, update: PyTree) -> PyTree:
            assert attack.update is not None  # noqa: S101 - there is neither data nor craft
            wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), update)
            new = attack.update(jr.wrap_key_data(key), wide)
            return jax.tree.map(
                lambda n, old: jnp.where(malicious, n.astype(old.dtype), old), new, update
            )

        uplink, new_state, info = algorithm.client_update(
            key, frozen, downlink, map_taps(ordered, client_state), batches
        )
        seen = [
            jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tap.seen) for tap in taps(new_state)
        ]
        kept = map_taps(lambda _, tap: Tap(tap.inner), new_state)
        observed = attack.craft is not None and not attacked.crafted
        return Observed(uplink, seen) if observed else uplink, kept, info

    return algorithm._replace(client_update=client_update)


def _instead(crafted: PyTree, update: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: new.astype(old.dtype), crafted, update)


def _itself(update: PyTree) -> PyTree:
    return update
