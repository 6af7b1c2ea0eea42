"""FLTrust (Cao et al. 2021, arXiv:2012.13995)."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor
from fedjax_compression.checks import check_integer
from fedjax_compression.errors import message
from jaxtyping import Array, Key

from ...aggregators.fl_trust_rule import fl_trust_rule
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, Uplink
from ...checks import check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...precision import cast, float32_zeros
from ...schedules import check_client_optimizer, first_step
from ..shared.averaging import AveragingState, averaging, fresh_optimizer
from ..shared.checks import check_like, check_loss


def fl_trust(
    loss: Loss,
    like: Params,
    *,
    root: Any,
    steps: int,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
) -> FederatedAlgorithm:
    """FedAvg whose server trains on data of its own, and trusts updates as far as they agree with
    the one that it gets.

    In each round the server takes `steps` local steps like a client, on batches of `root` in a
    random order, from the parameters that it sends. The clients' updates g_i are combined by
    `fl_trust_rule` with the server's update g_0: those with a negative cosine to it count for
    nothing, and all others have its length. Clients' claimed weights count for nothing. All else is
    as in `fed_avg`.

    The server has no frozen parameters, so that all parameters of the model are trained. Cost: one
    client's training at the server in each round, and `root` in its programs.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`; `frozen` is empty.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        root: The server's own batches: anything with a field `mask`, leaves `[batches, batch, ...]`
            as a client's batches have them.
        steps: Local steps of the server in a round, at least 1; as many as a client's. With more
            steps than batches it goes over them again.
        client_optimizer: Optax optimizer of the local steps, of clients and server. Its state
            starts afresh each round.
        server_optimizer: Optax optimizer of the server, which takes minus the aggregated
            difference as its gradient. Default: SGD at rate 1.
        uplink: Codec of the difference. Default: `identity()`.
        downlink: Codec of the parameters. Default: `identity()`.

    Returns:
        The algorithm.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For `steps` below 1, `root` without a mask or batches, and an uplink with
            receiver memory. At the first round, for frozen parameters.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fedjax_llm import simulate
        >>> from fedjax_llm.algorithms import fl_trust
        >>> from fedjax_llm.data import Batching, from_arrays, masked_mean
        >>> from fedjax_llm.data.arrays import ArrayBatch
        >>> loss = masked_mean(lambda w, frozen, x: 0.5 * ((w - x) ** 2).sum(-1))
        >>> root = ArrayBatch(jnp.full((1, 1, 1), 2.0), jnp.ones((1, 1)))
        >>> method = fl_trust(
        ...     loss, jnp.zeros(1), root=root, steps=1, client_optimizer=optax.sgd(1.0)
        ... )
        >>> corpus = from_arrays({"ann": jnp.array([[3.0]]), "eve": jnp.array([[-99.0]])})
        >>> (r,) = simulate(
        ...     method, jnp.zeros(1), (), corpus, Batching(batch=1, steps=1), rounds=1, clients=2,
        ...     seed=0,
        ... )
        >>> r.state.params.tolist()  # ann's direction at the server's length, without eve
        [2.0]

    """
    who = "fl_trust"
    check_loss(loss, who=who)
    check_like(like, who=who)
    check_client_optimizer(client_optimizer, like, who=who)
    check_optimizer(server_optimizer, who=who, name="server_optimizer", optional=True)
    check_integer(steps, who=who, name="steps", at_least=1)
    count = _batches(root)
    root = jax.tree.map(jnp.asarray, root)
    work = fresh_optimizer(loss, client_optimizer, like)
    if work.mechanism:
        expected = "one without noise, as the server takes steps on it too, without a secret"
        raise ValueError(message(who, "loss", expected, "one of dp_sgd"))
    method = averaging(
        work,
        like,
        who=who,
        server_optimizer=server_optimizer or optax.sgd(1.0),
        uplink=uplink,
        downlink=downlink,
        aggregate=fl_trust_rule(),
    )

    def broadcast(key: Key[Array, ""], state: AveragingState) -> tuple[Downlink, AveragingState]:
        sent, state = method.broadcast(key, state)
        order = jr.permutation(jr.fold_in(key, 2), count)[jnp.arange(steps) % count]
        batches = jax.tree.map(lambda leaf: leaf[order], root)
        progress = first_step(sent.params.number, batches)
        own, _, _ = work.update(cast(state.params, like), (), {}, batches, progress)
        # what the rule's `begin` gets
        of_rule = state.of_rule._replace(last=cast(own, float32_zeros(like)))
        return sent, state._replace(of_rule=of_rule)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        if found := len(jax.tree.leaves(frozen)):
            remedy = "train all parameters, as adapter full() does"
            expected = "none, as the server trains without"
            raise ValueError(message(who, "frozen", expected, f"{found} arrays", remedy))
        return method.client_update(key, frozen, downlink, client_state, batches)

    return method._replace(broadcast=broadcast, client_update=client_update, add_stale=None)


def _batches(root: Any) -> int:
    """Count the server's batches."""
    counts = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(root)}
    if not isinstance(root, Batches) or len(counts) != 1 or not (count := counts.pop()):
        expected = "batches with a field mask, leaves [batches, batch, ...]"
        raise ValueError(message("fl_trust", "root", expected, type(root).__name__))
    return count
