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
from ..precision import cast, float32_zeros
from .attackable import Tap, map_taps, taps
from .contract import Attack, Known

ATTACK = 2**32 - 5
"""Folded into keys for attacks; no client and no round has such a number."""

DATA = 2**32 - 6
"""Folded into an attack's key for the data; the updates of a client are numbered from 0."""


class AttackedBatches(NamedTuple):
    """The batches of a client, or of several, with what an attack needs to know.

    Attributes:
        batches: The batches.
        malicious: Whether the client is malicious: a boolean for each client.
        number: Its number among the run's malicious clients, if it is one of them.
        crafted: What was crafted for each `Tap` of its state, if that was; else empty.

    """

    batches: Batches
    malicious: Any
    number: Any
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
    if not attack.on_updates:
        return
    if not taps(jax.eval_shape(algorithm.client_init, params)):
        expected = "an algorithm built with uplink=attackable(codec), as updates are attacked"
        raise ValueError(message("simulate", "algorithm", expected, "one without"))


def with_attack(algorithm: FederatedAlgorithm, attack: Attack, clients: int) -> FederatedAlgorithm:
    """The same algorithm for `AttackedBatches`, whose `malicious` clients attack; `clients` is the
    size of a cohort.

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
        batches, malicious, number, crafted = attacked
        attack_key = jr.fold_in(key, ATTACK)
        poison = attack.of(Known(number, clients)).batches
        if poison:
            poisoned = poison(jr.fold_in(attack_key, DATA), batches)
            batches = jax.tree.map(lambda p, b: jnp.where(malicious, p, b), poisoned, batches)
        if not attack.on_updates:
            return algorithm.client_update(key, frozen, downlink, client_state, batches)

        def ordered(place: int, tap: Tap) -> Tap:
            if attack.craft and not crafted:
                return tap._replace(order=jax.tree_util.Partial(_itself))
            instead = crafted[place] if crafted else ()
            own_key = jr.key_data(jr.fold_in(attack_key, place))
            order = jax.tree_util.Partial(changed, malicious, number, own_key, instead)
            return tap._replace(order=order)

        def changed(
            malicious: Any, number: Any, key: Array, instead: PyTree, update: PyTree, last: PyTree
        ) -> PyTree:
            if attack.informed and not jax.tree.leaves(last):
                expected = "one built with uplink=attackable(codec, informed=True), as the attack "
                expected += "reads the last update"
                raise ValueError(message("simulate", "algorithm", expected, "one without"))
            wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), update)
            new, last = instead if crafted else wide, cast(last, float32_zeros(last))
            change = attack.of(Known(number, clients, last)).update
            new = change(jr.wrap_key_data(key), new) if change else new
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
        observed = attack.craft is not None and not crafted
        return Observed(uplink, seen) if observed else uplink, kept, info

    return algorithm._replace(client_update=client_update)


def _itself(update: PyTree, last: PyTree) -> PyTree:
    return update
