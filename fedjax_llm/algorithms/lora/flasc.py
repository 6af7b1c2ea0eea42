"""FLASC (Kuo et al. 2024, arXiv:2406.05233)."""

import optax
from fedjax_compression.checks import check_number
from fedjax_compression.sparsifiers import top_k

from ...algorithm import FederatedAlgorithm
from ...checks import check_optimizer
from ...client_training import Loss, Params
from ...schedules import check_client_optimizer
from ..shared.averaging import averaging, fresh_optimizer
from ..shared.checks import check_like, check_loss
from .pairs import pairs


def flasc(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation,
    up: float | int = 0.25,
    down: float | int = 0.25,
) -> FederatedAlgorithm:
    """LoRA with sparse messages: clients train all entries and send only the largest changes.

    Down: the `down` share of the entries of the server's `a` and `b`, those of largest magnitude;
    the others are zero at the client. The client trains all entries from there. Up: the `up` share
    of the entries of the difference, those of largest magnitude. Both choose among all pairs
    together and send positions entropy-coded (`top_k`).

    Biased in both directions: entries that are not sent are dropped, without error feedback, as in
    the paper. Exact with both shares at 1. The server optimizer takes minus the weighted mean
    difference as the gradient of its dense parameters; the paper uses FedAdam, which is `fed_adam`.

    Failures are handled as in `fed_avg`. The codecs are part of the method.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only.
        client_optimizer: Optax optimizer of the local steps; its state is reset every round.
        server_optimizer: Optax optimizer of the server's parameters.
        up: Share of entries that a client sends, above 0 and at most 1; default 0.25.
        down: Share of entries that the server sends, above 0 and at most 1; default 0.25.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like` or an optimizer is of the wrong kind.
        ValueError: For a share out of range, or if `like` has leaves other than LoRA factors; from
            `init`, if the parameters do not have the structure of `like`.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import flasc
        >>> from fedjax_llm.data import Batch
        >>> params = {"adapter": {"a": jnp.ones((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = flasc(
        ...     loss,
        ...     params,
        ...     client_optimizer=optax.sgd(0.1),
        ...     server_optimizer=optax.adam(0.1),
        ...     up=0.2,
        ... )
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> @jax.jit
        ... def first_uplink(key):
        ...     down, _ = algorithm.broadcast(key, algorithm.init(key, params))
        ...     state, batches = algorithm.client_init(params), Batch(tokens, tokens, tokens == 0)
        ...     return algorithm.client_update(key, {}, down, state, batches)[0]
        >>> up = first_uplink(jax.random.key(0))
        >>> len(up.values), wire.nbytes(up)  # 0.2 of 30 entries; with positions and header
        (6, 56)

    """
    check_loss(loss, who="flasc")
    check_like(like, who="flasc")
    check_client_optimizer(client_optimizer, like, who="flasc")
    check_optimizer(server_optimizer, who="flasc", name="server_optimizer")
    pairs(like, who="flasc")
    check_number(up, who="flasc", name="up", above=0, at_most=1)
    check_number(down, who="flasc", name="down", above=0, at_most=1)
    return averaging(
        fresh_optimizer(loss, client_optimizer, like),
        like,
        who="flasc",
        server_optimizer=server_optimizer,
        uplink=top_k(fraction=up),
        downlink=top_k(fraction=down),
    )
