"""FFA-LoRA (Sun et al. 2024, arXiv:2403.12313)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, PyTree

from ...algorithm import FederatedAlgorithm
from ...checks import check_codecs, check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...schedules import Progress, check_client_optimizer, needs_round
from ..shared.averaging import Work
from ..shared.checks import check_like, check_loss
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
    population: float | int | None = None,
) -> FederatedAlgorithm:
    """Train and send only `b`; the random factor `a` is fixed and the same for all clients.

    Up: the difference of `b`, through `uplink`: rank * outputs values per product, half of LoRA's
    bytes for a square product. Down: `b`, through `downlink`. `a` never travels: it is drawn
    before the first round, and every client keeps the one it was given.

    Exact: all clients multiply by the same `a`, so that the mean of their products is the product
    of `a` and the mean of `b`. Averaging both factors (`fed_avg`) does not have this property. The
    cost is expressiveness: every change stays in the column span of the fixed `a`.

    Failures, codecs with memory and the server optimizer are handled as in `fed_avg`.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only. DoRA is refused, as its change is not linear in `b`.
        client_optimizer: Optax optimizer of the local steps on `b`; its state is reset every round.
        server_optimizer: Optax optimizer whose gradient is minus the mean difference; default: SGD
            with learning rate 1.
        uplink: Codec of the difference of `b`; default: uncompressed.
        downlink: Codec of `b`; default: uncompressed.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.

    Returns:
        The algorithm. Its server state's `params` are LoRA parameters with the fixed `a`.

    Raises:
        TypeError: If `loss`, `like`, an optimizer or a codec is of the wrong kind.
        ValueError: If `like` has leaves other than LoRA factors; from `init`, if the parameters do
            not have the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import ffa_lora
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = ffa_lora(loss, like, client_optimizer=optax.sgd(0.1))
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 2 * 9 float32 of b
        72

    """
    check_loss(loss, who="ffa_lora")
    check_like(like, who="ffa_lora")
    check_optimizer(client_optimizer, who="ffa_lora", name="client_optimizer")
    check_optimizer(server_optimizer, who="ffa_lora", name="server_optimizer", optional=True)
    check_codecs(who="ffa_lora", known=("uplink",), uplink=uplink, downlink=downlink)
    pairs(like, who="ffa_lora")

    def a_factors(params: Params) -> list[Array]:
        return [pair.a for pair in pairs(params, who="ffa_lora")]

    def b_factors(params: Params) -> list[Array]:
        return [pair.b for pair in pairs(params, who="ffa_lora")]

    def lora_params(a: list[Array], b: list[Array]) -> Params:
        return with_pairs(like, [Pair(*pair) for pair in zip(a, b, strict=True)])

    def loss_of_b(b: list[Array], fixed: tuple[list[Array], Frozen], batch: Batches) -> Array:
        a, frozen = fixed
        return loss(lora_params(a, b), frozen, batch)

    b_like = jax.eval_shape(b_factors, like)
    check_client_optimizer(client_optimizer, b_like, who="ffa_lora")
    train = local_steps(loss_of_b, client_optimizer)

    def update(
        received: PyTree, a: PyTree, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, info = train(received, (a, frozen), batches, progress)
        return jax.tree.map(jnp.subtract, trained, received), a, info

    return averaging_part(
        Work(a_factors, update, needs_round(client_optimizer, b_like)),
        like,
        who="ffa_lora",
        take=b_factors,
        put=lora_params,
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
        population=population,
    )
