"""FedSA-LoRA (Guo et al. 2024, arXiv:2410.01463)."""

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, PyTree

from ...algorithm import FederatedAlgorithm
from ...checks import check_codecs, check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ...precision import in_dtypes, master_copy
from ...schedules import Progress, check_client_optimizer, needs_round
from ..shared.averaging import AveragingClient, Work
from ..shared.checks import check_like, check_loss
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
    population: float | int | None = None,
) -> FederatedAlgorithm:
    """Train both factors, share only `a`; every client keeps its `b`.

    Up: the difference of `a`, through `uplink`: inputs * rank values per product. Down: `a`,
    through `downlink`. `b` stays on the client from round to round and never travels; a client that
    failed keeps its old `b`, one whose message was lost or late the `b` that it trained.

    Exact in what is shared: the server has the mean of the clients' `a`. There is no global model:
    the server's parameters have the initial `b`, which is zero for `lora`, so that they act as the
    base. A client's model is `personal` of the algorithm: the server's `a` with the client's `b`.
    Its score is a personalised one and not comparable to that of a global model.

    Failures, codecs with memory and the server optimizer are handled as in `fed_avg`.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only.
        client_optimizer: Optax optimizer of the local steps on `a` and `b`; its state is reset
            every round.
        server_optimizer: Optax optimizer whose gradient is minus the mean difference of `a`;
            default: SGD with learning rate 1.
        uplink: Codec of the difference of `a`; default: uncompressed.
        downlink: Codec of `a`; default: uncompressed.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.

    Returns:
        The algorithm, with `personal`.

    Raises:
        TypeError: If `loss`, `like`, an optimizer or a codec is of the wrong kind.
        ValueError: If `like` has leaves other than LoRA factors; from `init`, if the parameters do
            not have the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import fedsa_lora
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = fedsa_lora(loss, like, client_optimizer=optax.sgd(0.1))
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 6 * 2 float32 of a
        48

    """
    check_loss(loss, who="fedsa_lora")
    check_like(like, who="fedsa_lora")
    check_client_optimizer(client_optimizer, like, who="fedsa_lora")
    check_optimizer(server_optimizer, who="fedsa_lora", name="server_optimizer", optional=True)
    check_codecs(who="fedsa_lora", known=("uplink",), uplink=uplink, downlink=downlink)
    pairs(like, who="fedsa_lora")
    structure = jax.eval_shape(master_copy, like)
    train = local_steps(in_dtypes(loss, like), client_optimizer)

    def lora_params(a: list[Array], b: list[Array]) -> Params:
        return with_pairs(structure, [Pair(*pair) for pair in zip(a, b, strict=True)])

    def update(
        received: PyTree, b: PyTree, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, info = train(lora_params(received, b), frozen, batches, progress)
        return jax.tree.map(jnp.subtract, _a_factors(trained), received), _b_factors(trained), info

    return averaging_part(
        Work(
            lambda params: _b_factors(master_copy(params)),
            update,
            needs_round(client_optimizer, like),
        ),
        like,
        who="fedsa_lora",
        take=_a_factors,
        put=lambda b, a: lora_params(a, b),
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
        population=population,
    )._replace(personal=_personal)


def _personal(params: Params, client_state: AveragingClient) -> Params:
    """A client's model: the server's `a` with the client's `b`."""
    factors = zip(_a_factors(params), client_state.work, strict=True)
    return with_pairs(params, [Pair(a, b) for a, b in factors])


def _a_factors(params: Params) -> list[Array]:
    return [pair.a for pair in pairs(params, who="fedsa_lora")]


def _b_factors(params: Params) -> list[Array]:
    return [pair.b for pair in pairs(params, who="fedsa_lora")]
