"""DeMo (Peng et al. 2024, arXiv:2411.19870, algorithm 1)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from fedjax_compression.sparsifiers import dct_top_k
from fedjax_compression.sparsifiers.dct_top_k import (
    Coefficients,
    coefficients_of,
    from_coefficients,
)
from jaxtyping import Array, Float, PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import FederatedAlgorithm
from ...client_training import Loss, Params
from ..averaging.fed_sgd import descent
from ..shared.averaging import averaging
from ..shared.checks import check_positive


def demo(
    loss: Loss,
    like: Params,
    *,
    rate: float,
    decay: float | int = 0.999,
    fraction: float = 1 / 128,
    block: int = 64,
    over_senders: bool = False,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """Clients accumulate gradients into a momentum of their own, send its largest cosine
    coefficients and take them out of it; the server steps along the sign of the mean.

    A round is a step: the gradient is that of the mean loss over all targets of the client's
    batches, one message. Up: the coefficients, as `dct_top_k` codes them. Down: the parameters,
    through `downlink`; the paper's workers gather each other's coefficients, and each makes the
    step itself. The step is `rate` times the sign of the weighted mean of what was sent, in every
    entry; where nothing was sent it is 0.
    Exact but for the blocks of the transform, which are the codec's: `block` entries in a row for
    the paper's squares of a matrix. The mean is over all clients; with `over_senders` it
    is, for each coefficient, over those that sent it, as in the authors' code. With fraction 1 and
    one client the momentum is sent whole and starts anew each round: the step is along the sign
    of the gradient. Every client keeps a float32 copy of the parameters, and must take part in
    every round for its momentum to be one.
    Failures and downlinks with memories are treated as `fed_avg` treats them.
    Raises `ValueError` unless rate is above 0, as the codec does for decay, fraction and block, and
    where the parameters do not have the structure of `like`.
    """
    check_positive(rate, name="rate", who="demo")
    uplink = dct_top_k(fraction=fraction, decay=decay, block=block)
    return averaging(
        descent(loss),
        like,
        who="demo",
        server_optimizer=optax.sign_sgd(rate),
        uplink=uplink._replace(decode=coefficients_of) if over_senders else uplink,
        downlink=downlink,
        aggregate=mean_over_senders(like, block=block) if over_senders else None,
    )


def mean_over_senders(like: Params, *, block: int) -> Aggregator:
    """Of each coefficient the mean over the weights of those that sent it, transformed back; zero
    where nobody did.
    """

    def empty(_: PyTree, clients: int) -> Coefficients:
        entries = sum(leaf.size for leaf in jax.tree.leaves(like))
        return Coefficients(jnp.zeros(entries), jnp.zeros(entries))

    def add(
        partial: Coefficients, updates: Coefficients, weights: Float[Array, " clients"]
    ) -> Coefficients:
        return jax.tree.map(lambda t, u: t + jnp.tensordot(weights, u, 1), partial, updates)

    def merge(one: Coefficients, other: Coefficients) -> Coefficients:
        return jax.tree.map(jnp.add, one, other)

    def finish(partial: Coefficients) -> PyTree:
        mean = partial.values / jnp.where(partial.sent > 0, partial.sent, 1.0)
        wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
        return from_coefficients(mean, wide, block=block)

    return Aggregator(empty, add, merge, finish)
