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
from ..shared.checks import check_like, check_loss, check_positive


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
    """Clients add gradients to a momentum, send its largest cosine coefficients and subtract them
    from it; the server steps along the sign of the mean.

    A round is one step: a client's gradient is that of the mean loss over all targets of its
    batches. The server's step is `rate` times the sign of the weighted mean of the decoded messages
    in every entry, 0 where that is 0. With fraction 1 and one client the whole momentum is sent and
    starts anew each round, so that the step is along the sign of the gradient. A client's momentum
    grows only in rounds in which it takes part, so every client should take part in every round.

    Up: the coefficients, as `dct_top_k` codes them. Down: the parameters, through `downlink`.
    Failed clients and downlinks with receiver memory are treated as in `fed_avg`. Cost: each client
    keeps a float32 copy of the parameters.

    Departures: a block of the transform is `block` consecutive entries, where the paper has squares
    of a matrix. The paper's workers gather each other's coefficients and each makes the step.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        rate: Learning rate of the sign step, above 0.
        decay: Factor of the momentum, from 0 to 1. Default: 0.999.
        fraction: Share of a block's coefficients that are sent, above 0 and at most 1. Default:
            1/128.
        block: Entries per block, from 1 to 1024. Default: 64.
        over_senders: Average each coefficient over the clients that sent it, as in the authors'
            code, instead of over all clients. Default: False.
        downlink: Codec of the parameters. Default: `identity()`.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `rate`, `decay`, `fraction` or `block` out of range. From `init`, for
            parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.algorithms import demo
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((64, 128))}, jnp.ones((1, 1, 1))
        >>> method = demo(loss, params, rate=0.001, fraction=1 / 32)
        >>> _, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> uplink.values.shape  # two coefficients of each of 128 blocks
        (256,)

    """
    check_loss(loss, who="demo")
    check_like(like, who="demo")
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
    )._replace(add_stale=None)  # the sign of a sum forgets a discount


def mean_over_senders(like: Params, *, block: int) -> Aggregator:
    """Build the aggregator that averages each coefficient over the clients that sent it.

    `finish` transforms the means back; a coefficient that no client sent is zero.
    """

    def empty(_: PyTree, clients: int) -> Coefficients:
        entries = sum(leaf.size for leaf in jax.tree.leaves(like))
        return Coefficients(jnp.zeros(entries), jnp.zeros(entries))

    def add(
        partial: Coefficients, updates: Coefficients, weights: Float[Array, " clients"]
    ) -> Coefficients:
        return jax.tree.map(
            lambda t, u: t + jnp.tensordot(weights, u, 1, precision="highest"), partial, updates
        )

    def merge(one: Coefficients, other: Coefficients) -> Coefficients:
        return jax.tree.map(jnp.add, one, other)

    def finish(partial: Coefficients) -> PyTree:
        mean = partial.values / jnp.where(partial.sent > 0, partial.sent, 1.0)
        wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), like)
        return from_coefficients(mean, wide, block=block)

    return Aggregator(empty, add, merge, finish)
