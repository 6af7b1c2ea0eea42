"""FFA-LoRA (Sun et al. 2024, arXiv:2403.12313)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ..shared.averaging import Work
from ..shared.partial_averaging import averaging_part
from .pairs import Pair, pairs, with_pairs


def ffa_lora(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """LoRA whose random factor `a` is never trained: clients train and send `b` alone.

    Up: the difference of `b`, through `uplink`: rank * outputs values a product, half of LoRA's
    where it is square. Down: `b`, through `downlink`. `a` is drawn before the first round, is the
    same everywhere and does not travel: a client keeps what it was first given.
    Exact: all clients multiply by the same `a`, so that the mean of their products is the product
    of the means, as it is not where both factors are averaged (`fed_avg`). Less can be expressed:
    what is added stays in the span of the `a` that was drawn.
    Failures, codecs with memories and the server's optimizer are treated as `fed_avg` treats them.
    Raises `ValueError` where the parameters are not LoRA's `a` and `b` alone: with the magnitudes
    of DoRA what is added is not linear in `b`. And where they do not have the structure of `like`.
    """
    pairs(like, who="ffa_lora")
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)

    def firsts(params: Params) -> list[Array]:
        return [pair.a for pair in pairs(params, who="ffa_lora")]

    def seconds(params: Params) -> list[Array]:
        return [pair.b for pair in pairs(params, who="ffa_lora")]

    def given(a: list[Array], b: list[Array]) -> Params:
        return with_pairs(structure, [Pair(*pair) for pair in zip(a, b, strict=True)])

    def loss_of_b(b: list[Array], held: tuple[list[Array], Frozen], batch: Batches) -> Array:
        a, frozen = held
        return loss(given(a, b), frozen, batch)

    train = local_steps(loss_of_b, client_optimizer)

    def update(
        received: PyTree, a: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, info = train(received, (a, frozen), batches)
        return jax.tree.map(jnp.subtract, trained, received), a, info

    return averaging_part(
        Work(firsts, update),
        like,
        who="ffa_lora",
        take=seconds,
        put=given,
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
    )
