"""FedMeZO (Ling et al. 2024, arXiv:2402.05926)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor
from fedjax_compression.checks import check_number
from jaxtyping import Array, Key, PyTree

from ...aggregators.contract import Aggregator
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, Uplink
from ...checks import check_codecs, check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...precision import in_dtypes, master_copy
from ...schedules import Progress, check_client_optimizer, needs_round
from ..shared.averaging import Work, averaging
from ..shared.checks import check_like, check_loss
from ..shared.trees import choose
from .slopes import Seed, perturbation, two_point


def fed_mezo(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    aggregate: Aggregator | None = None,
    population: float | int | None = None,
    radius: float = 1e-3,
) -> FederatedAlgorithm:
    """FedAvg whose clients compute no gradient: a local step takes two evaluations (MeZO).

    The evaluations, at w + radius z and w - radius z, give the estimate slope * z, which stands in
    for the gradient. Directions are drawn from the client's key, anew in each step, and not kept.

    Up: the difference of the parameters, through `uplink`. Down: the parameters, through
    `downlink`. The bytes are FedAvg's; what the method saves is memory. Messages are exact where
    both codecs are the identity. The estimate is unbiased up to O(radius^2), and its expected
    squared norm is d + 2 times that of the gradient in d dimensions.

    Failures, codecs with memory and the server optimizer are handled as in `fed_avg`.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the trainable parameters: arrays or `ShapeDtypeStruct`s.
        client_optimizer: Optax optimizer of the local steps, which takes the estimates as
            gradients; SGD in the paper. Its state is reset every round.
        server_optimizer: Optax optimizer whose gradient is minus the aggregated difference;
            default: SGD with learning rate 1.
        uplink: Codec of the difference; default: uncompressed.
        downlink: Codec of the parameters; default: uncompressed.
        aggregate: Rule that combines the differences; default: the mean by the runtime's weights.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.
        radius: Distance between the parameters and each evaluation, in units of z, above 0; default
            1e-3.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like`, an optimizer, a codec or `aggregate` is of the wrong kind.
        ValueError: If `radius` is not a finite number above 0; from `init`, if the parameters do
            not have the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import fed_mezo
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = fed_mezo(loss, like, client_optimizer=optax.sgd(0.1))
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 6 * 2 + 2 * 9 float32
        120

    """
    check_loss(loss, who="fed_mezo")
    check_like(like, who="fed_mezo")
    check_client_optimizer(client_optimizer, like, who="fed_mezo")
    check_optimizer(server_optimizer, who="fed_mezo", name="server_optimizer", optional=True)
    check_codecs(who="fed_mezo", uplink=uplink, downlink=downlink)
    check_number(radius, who="fed_mezo", name="radius", above=0)
    averaged = averaging(
        without_gradients(loss, client_optimizer, like, radius=radius),
        like,
        who="fed_mezo",
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=aggregate,
        population=population,
    )

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        coding, drawing = jr.split(key)
        seeded = Seeded(batches, jr.bits(drawing, (2,), "uint32"))
        return averaged.client_update(coding, frozen, sent, client_state, seeded)

    return averaged._replace(client_update=client_update)


class Seeded(NamedTuple):
    """A client's batches, with the seed of its directions.

    Attributes:
        batches: The batches, leaves `[steps, batch, ...]`.
        seed: Seed of the client's directions in this round.

    """

    batches: Batches
    seed: Seed

    @property
    def mask(self) -> Any:
        return self.batches.mask


def without_gradients(
    loss: Loss, optimizer: optax.GradientTransformation, like: Params, *, radius: float
) -> Work:
    """Local steps of an optimizer whose gradients are estimates from two evaluations."""
    slope = two_point(in_dtypes(loss, like), radius=radius)
    optimizer = optax.with_extra_args_support(optimizer)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, seeded: Any, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        def step(carry: tuple, batch_and_number: tuple) -> tuple:
            params, state = carry
            batch, number = batch_and_number
            z = perturbation(params, seeded.seed, number)
            value, inner = slope(params, frozen, batch, z)
            estimate = jax.tree.map(lambda z, p: (inner * z).astype(p.dtype), z, params)
            at = progress._replace(step=number)
            updates, state = optimizer.update(estimate, state, params, progress=at)
            targets = batch.mask.sum(dtype=jnp.int32)
            new = optax.apply_updates(params, updates), state
            return choose(targets > 0, new, carry), (jnp.where(targets > 0, value, 0.0), targets)

        numbers = jnp.arange(len(seeded.mask))
        masters = master_copy(received)
        first = masters, optimizer.init(masters)
        (trained, _), (values, targets) = jax.lax.scan(step, first, (seeded.batches, numbers))  # type: ignore[var-annotated]
        mean = (values * targets).sum() / jnp.maximum(targets.sum(), 1)
        info = ClientInfo(mean, targets.sum())
        return jax.tree.map(jnp.subtract, trained, received), memory, info

    return Work(lambda params: (), update, needs_round(optimizer, like))
