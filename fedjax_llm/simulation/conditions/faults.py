"""Client faults, drawn from the key, the round and the client alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from fedjax_compression.checks import check_number
from fedjax_compression.errors import message
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ...algorithm import ClientState, Downlink, FederatedAlgorithm, Uplink
from ...client_training import Batches, ClientInfo, Frozen, Params


class Fate(NamedTuple):
    """What happens to a client in a round: scalars, or arrays `[clients]`.

    Attributes:
        dropped: The client receives the model and then drops out. It sends no uplink, and its
            client state stays as it was, like that of a client that was not drawn.
        silent: The client trains but sends no uplink. It keeps its old client state, apart from
            what the method's `uncounted` lets it keep of the new one.
        failed: Every floating-point number that the client received or kept is NaN. It sends what
            results from that, and its client state stays as it was. Refused where neither what is
            received nor what is kept has such a number, as through `bfloat16()` on the downlink.
        work: Share of its local steps that the client completes, rounded up to whole steps.

    """

    dropped: Bool[Array, "*clients"]
    silent: Bool[Array, "*clients"]
    failed: Bool[Array, "*clients"]
    work: Float[Array, "*clients"]


class Faults(NamedTuple):
    """Which faults clients have in which round.

    Attributes:
        draw: `(key, round, client) -> fate`, traced: a key of this client in this round, used for
            nothing else, the round's number and the client's number. A fate therefore depends on no
            other client and on nothing that ran before.

    """

    draw: Callable[[Key[Array, ""], Int[Array, ""], Int[Array, ""]], Fate]


def faults(
    *,
    dropout: float | int = 0.0,
    silence: float | int = 0.0,
    failure: float | int = 0.0,
    partial: float | int = 0.0,
) -> Faults:
    """Draw faults independently for each client and round; a client has at most one of the four.

    A client with partial work completes 1 step to all of its steps, each number equally likely, as
    in FedProx (Li et al. 2020, arXiv:1812.06127, section 5.2), and counts with its full weight.
    Methods that average differences then favour clients that do more; `fed_nova` corrects that
    (Wang et al. 2020, arXiv:2007.07481).

    Args:
        dropout: Probability, from 0 to 1, that a drawn client drops out of the round; 0 by default.
        silence: Probability that it trains and does not answer; 0 by default.
        failure: Probability that it fails and computes with NaNs; 0 by default.
        partial: Probability that it completes only some of its steps; 0 by default.

    Returns:
        The faults, for `Conditions`. `Fate` says what each fault does.

    Raises:
        ValueError: For a probability that is not from 0 to 1, or if their sum is above 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_llm.simulation import Conditions, faults
        >>> fate = faults(dropout=1.0).draw(jax.random.key(0), jnp.int32(1), jnp.int32(7))
        >>> bool(fate.dropped), bool(fate.failed), float(fate.work)
        (True, False, 1.0)
        >>> conditions = Conditions(faults(dropout=0.1, partial=0.3))

    """
    chances = {"dropout": dropout, "silence": silence, "failure": failure, "partial": partial}
    for name, chance in chances.items():
        check_number(chance, who="faults", name=name, at_least=0, at_most=1)
    if sum(chances.values()) > 1:
        names = ", ".join(chances)
        raise ValueError(message("faults", names, "a sum of at most 1", sum(chances.values())))

    def draw(key: Key[Array, ""], number: Int[Array, ""], client: Int[Array, ""]) -> Fate:
        which_key, work_key = jr.split(key)
        which, below = jr.uniform(which_key), 0.0
        drawn = []  # each fault has an interval of [0, 1), as long as its probability
        for chance in chances.values():
            drawn.append((which >= below) & (which < below + chance))
            below += chance
        dropped, silent, failed, some_work = drawn
        return Fate(dropped, silent, failed, jnp.where(some_work, 1 - jr.uniform(work_key), 1.0))

    return Faults(draw)


class FaultyBatches(NamedTuple):
    """The batches of a client, or of several, with a boolean that says whether it fails.

    Attributes:
        batches: The batches.
        failed: Whether the client fails: a boolean for each client.

    """

    batches: Batches
    failed: Any

    @property
    def mask(self) -> PyTree:
        """The mask of the batches."""
        return self.batches.mask


def can_fail(algorithm: FederatedAlgorithm, params: Params) -> bool:
    """Whether a client receives or keeps a floating-point number, which can be made NaN."""

    def of_client(key: Key[Array, ""], params: Params) -> PyTree:
        downlink, _ = algorithm.broadcast(key, algorithm.init(key, params))
        return downlink, algorithm.client_init(params)

    found = jax.tree.leaves(jax.eval_shape(of_client, jr.key(0), params))
    return any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in found)


def with_failures(algorithm: FederatedAlgorithm) -> FederatedAlgorithm:
    """The same algorithm for `FaultyBatches`, whose `failed` clients compute with NaNs.

    Every floating-point number in the downlink and in the client state of such a client is NaN, so
    that it fails as the algorithm's clients fail by themselves.
    """

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        client_state: ClientState,
        faulty: Any,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        def poisoned(leaf: Array) -> Array:
            floating = jnp.issubdtype(leaf.dtype, jnp.floating)
            return jnp.where(faulty.failed, jnp.nan, leaf).astype(leaf.dtype) if floating else leaf

        downlink, client_state = jax.tree.map(poisoned, (downlink, client_state))
        return algorithm.client_update(key, frozen, downlink, client_state, faulty.batches)

    return algorithm._replace(client_update=client_update)
