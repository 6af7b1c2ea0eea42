"""FedSA-LoRA (Guo et al. 2024, arXiv:2410.01463)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..shared.averaging import AveragingClient, Work
from ..shared.partial_averaging import averaging_part
from .pairs import Pair, pairs, with_pairs


def fedsa_lora(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """LoRA whose `a` is shared and whose `b` is each client's own: clients train both.

    Up: the difference of `a`, through `uplink`: inputs * rank values a product. Down: `a`, through
    `downlink`. `b` stays on the client from round to round and never travels; a client that has
    failed keeps the one it had.
    Exact in what is shared: the server holds the mean of the clients' `a`. There is no global
    model: the server's parameters have the first `b`, zero for `lora`, and thus do what the base
    does. A client's own model is `personal` of the algorithm, the server's `a` with its own `b`,
    and a score of it is a personal one, not to be put beside those of global models.
    Failures, codecs with memories and the server's optimizer are treated as `fed_avg` treats them.
    Raises `ValueError` where the parameters are not LoRA's `a` and `b` alone, or do not have the
    structure of `like`.
    """
    pairs(like, who="fedsa_lora")
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    train = local_steps(loss, client_optimizer)

    def given(a: list[Array], b: list[Array]) -> Params:
        return with_pairs(structure, [Pair(*pair) for pair in zip(a, b, strict=True)])

    def update(
        received: PyTree, b: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, info = train(given(received, b), frozen, batches)
        return jax.tree.map(jnp.subtract, _firsts(trained), received), _seconds(trained), info

    return averaging_part(
        Work(_seconds, update),
        like,
        who="fedsa_lora",
        take=_firsts,
        put=lambda b, a: given(a, b),
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
    )._replace(personal=_personal)


def _personal(params: Params, own: AveragingClient) -> Params:
    """A client's model: the server's `a` with the client's own `b`."""
    halves = zip(_firsts(params), own.work, strict=True)
    return with_pairs(params, [Pair(a, b) for a, b in halves])


def _firsts(params: Params) -> list[Array]:
    return [pair.a for pair in pairs(params, who="fedsa_lora")]


def _seconds(params: Params) -> list[Array]:
    return [pair.b for pair in pairs(params, who="fedsa_lora")]
