"""SplitLoRA (Lin et al. 2024, arXiv:2407.00952, algorithm 1)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.checks import check_function, check_integer
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8, UInt32

from ...aggregators.failures import leave_out_failed
from ...algorithm import Asked, Halves, ServerInfo, SplitMessages, SplitMethod
from ...checks import check_codecs, check_optimizer
from ...client_training import ClientInfo, Frozen, Params
from ...data import Batch
from ...schedules import Progress, check_client_optimizer, needs_round
from ..shared.checks import check_full_precision, check_keeps_nothing, check_like, check_structure
from ..shared.trees import choose


class SplitState(NamedTuple):
    """Server state.

    Attributes:
        params: The parameters of both halves: the lower as the mean of the clients, the upper as
            the server trains it.
        optimizer: Optimizer state of the upper half.
        round: Number of the last round, uint32, if the optimizer needs it; else empty.

    """

    params: Params
    optimizer: optax.OptState
    round: PyTree[UInt32[Array, ""]]


class Start(NamedTuple):
    """Payload for every client before its first step.

    Attributes:
        params: The parameters of the lower half.
        round: Number of the round, from 1, uint32, if the optimizer needs it; else empty.

    """

    params: Params
    round: PyTree[UInt32[Array, ""]]


class Ahead(NamedTuple):
    """Payload of a client in one step.

    Attributes:
        activations: The activations after the client's last layer, through the uplink's codec.
        targets: The targets in ceil(log2(vocab)) bits each, packed.
        mask: Which targets count, one bit each, packed.
        segments: The batch's segments, if its rows hold several documents; else None.
        positions: The batch's positions, if its rows hold several documents; else None.

    """

    activations: PyTree
    targets: UInt8[Array, " bytes"]
    mask: UInt8[Array, " bytes"]
    segments: PyTree
    positions: PyTree


def split_lora(
    like: Params,
    *,
    halves: Callable[[int], Halves],
    vocab: int,
    client_optimizer: optax.GradientTransformation,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    cut: int = 1,
) -> SplitMethod:
    """Clients train the LoRA of the first `cut` layers, and the server trains that of the others on
    what all clients send it.

    In each step a client sends the activations after its last layer, through `uplink`, with its
    targets and mask: the server has the labels, as in the paper. The server computes each client's
    loss, steps its half along the mean of their gradients, by the runtime's weights, and sends each
    client the gradient at its activations, through `downlink`; the client steps its half with it.
    After a round's steps clients send the change of their half, and all go on from the mean.

    Exact if both codecs are the identity: the gradients of both halves are those of the whole
    model, and one step of SGD is that of `fed_sgd`. The server computes with the decoded
    activations; clients take its gradient as that at their activations.

    Up in each step: 4 bytes per activation, or as the codec has it, ceil(log2(vocab)) bits per
    target and one bit of mask. Down in each step: as many values as activations. Once a round: the
    parameters of the lower half down, and their change up. Activations and labels reveal a client's
    text; nothing here hides it. Cost: in each step, the server keeps what the gradient of its half
    needs for every client.

    A client whose activations or loss are not finite gets NaNs back, sends NaNs until the end of
    the round, and is left out.

    Args:
        like: Structure of the LoRA parameters of all layers: arrays or ShapeDtypeStructs.
        halves: `(cut) -> Halves`: the model cut into two halves, such as
            `lambda cut: tasks.halves(task, layers, cut=cut)`.
        vocab: Tokens in the vocabulary.
        client_optimizer: Optax optimizer of both halves. A client's state starts afresh each round,
            the server's lasts.
        uplink: Codec of the activations, which keeps no state. Default: `identity()`.
        downlink: Codec of the gradients, which keeps no state. Default: `identity()`.
        cut: Number of layers of the lower half, below the number of all layers. Default: 1.

    Returns:
        A `SplitMethod`. The `update_norm` of its rounds is that of the change of both halves.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a codec that keeps a state, for `vocab` below 1, and what `halves` raises.
            From `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import split_lora
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.tasks import Halves
        >>> def lower(params, frozen, batch):
        ...     return batch.tokens[..., None] * params
        >>> def upper(params, frozen, activations, asked):
        ...     return (((activations * params).sum(-1) - asked.targets) ** 2).mean()
        >>> def halves(cut):  # of a vector: the client has its first entries
        ...     return Halves(lambda params: (params[:cut], params[cut:]),
        ...                   lambda *halves: jnp.concatenate(halves), lower, upper)
        >>> key, params = jax.random.key(0), jnp.ones(8)
        >>> method = split_lora(
        ...     params, halves=halves, vocab=256, client_optimizer=optax.sgd(0.1), cut=4
        ... )
        >>> ones = jnp.ones((1, 1, 2, 8), jnp.int32)  # [clients, steps, batch, seq]
        >>> batches, start = Batch(ones, ones, ones > 0), method.init(key, params)
        >>> _, messages, _, _ = jax.eval_shape(
        ...     method.round, key, {}, start, jnp.arange(1), jnp.ones(1), batches
        ... )
        >>> wire.nbytes(messages.ahead)  # header 12, and 16 positions of 4 * 4 bytes, 8 + 1 bits
        286

    """
    who = "split_lora"
    check_like(like, who=who)
    why = "both halves step their parameters in the dtype that they compute with"
    check_full_precision(like, who=who, why=why)
    check_function(halves, who=who, name="halves", signature="(cut) -> Halves")
    check_integer(vocab, who=who, name="vocab", at_least=1)
    check_optimizer(client_optimizer, who=who, name="client_optimizer")
    check_codecs(who=who, uplink=uplink, downlink=downlink)
    up, down = uplink or identity(), downlink or identity()
    check_keeps_nothing(up, name="uplink", who=who)
    check_keeps_nothing(down, name="downlink", who=who)
    try:
        part, join, lower, upper = halves(cut)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    bits = max(1, (vocab - 1).bit_length())
    halves_like = jax.eval_shape(part, like)
    for half in halves_like:
        check_client_optimizer(client_optimizer, half, who=who)
    numbered = any(needs_round(client_optimizer, half) for half in halves_like)
    optimizer = optax.with_extra_args_support(client_optimizer)

    def init(key: Key[Array, ""], params: Params) -> SplitState:
        check_structure(params, like, who=who)
        number = jnp.zeros((), jnp.uint32) if numbered else ()
        return SplitState(params, optimizer.init(part(params)[1]), number)

    def send_ahead(key: Key[Array, ""], activations: Array, batch: Batch) -> Ahead:
        payload, _ = up.encode(key, activations, up.init(activations))
        targets = jnp.asarray(batch.targets, jnp.uint32).reshape(-1)
        mask = jnp.asarray(batch.mask, jnp.uint32).reshape(-1)
        return Ahead(
            payload, pack(targets, bits=bits), pack(mask, bits=1), batch.segments, batch.positions
        )

    def serve(
        frozen: Frozen, params: Params, sent: Ahead, like: jax.ShapeDtypeStruct
    ) -> tuple[Float[Array, ""], Int[Array, ""], Params, Array]:
        """Compute a client's loss, targets, and gradients at upper half and activations."""
        rows, size = like.shape[:2], like.shape[0] * like.shape[1]
        targets = unpack(sent.targets, size, bits=bits).astype(jnp.int32).reshape(rows)
        mask = unpack(sent.mask, size, bits=1).reshape(rows) > 0
        asked = Asked(targets, mask, sent.segments, sent.positions)
        activations = up.decode(sent.activations, like)
        value, (upper_gradient, gradient) = jax.value_and_grad(
            lambda params, hidden: upper(params, frozen, hidden, asked), argnums=(0, 1)
        )(params, activations)
        failed = ~(jnp.isfinite(value) & jnp.isfinite(activations).all())
        return (
            value,
            mask.sum(dtype=jnp.int32),
            upper_gradient,
            jnp.where(failed, jnp.nan, gradient),
        )

    def descend(
        params: Params, memory: optax.OptState, gradient: Params, progress: Progress
    ) -> tuple[Params, Any]:
        step, memory = optimizer.update(gradient, memory, params, progress=progress)
        return optax.apply_updates(params, step), memory

    def one_round(
        key: Key[Array, ""],
        frozen: Frozen,
        state: SplitState,
        clients: Int[Array, " clients"],
        weights: Float[Array, " clients"],
        batches: Any,
    ) -> tuple[SplitState, SplitMessages, ClientInfo, ServerInfo]:
        start, upper_start = part(state.params)
        round_number = jax.tree.map(lambda last: last + 1, state.round)
        keys = jax.vmap(jr.fold_in, (None, 0))(key, clients)
        one_client = start, optimizer.init(start)
        each_client = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(weights)), one_client)

        def step(carry: tuple, inputs: tuple[Array, Batch]) -> tuple[tuple, tuple]:
            (lower_params, lower_memory), upper_params, memory = carry
            number, batch = inputs
            progress = Progress(round_number, number, len(numbers))
            up_keys, down_keys = jax.vmap(
                lambda key: jr.split(jr.fold_in(key, number)), out_axes=1
            )(keys)
            # each client, on its text
            run = jax.vmap(lambda params, batch: lower(params, frozen, batch))
            activations, pull = jax.vjp(lambda params: run(params, batch), lower_params)
            ahead = jax.vmap(send_ahead)(up_keys, activations, batch)
            # the server, on what clients sent
            like = jax.ShapeDtypeStruct(activations.shape[1:], activations.dtype)
            losses, targets, upper_gradients, gradients = jax.vmap(
                lambda sent: serve(frozen, upper_params, sent, like)
            )(ahead)
            mean, weight = _mean((upper_gradients, gradients), weights * (targets > 0))
            stepped = descend(upper_params, memory, mean, progress)
            upper_params, memory = choose(weight > 0, stepped, (upper_params, memory))
            back = jax.vmap(lambda key, g: down.encode(key, g, down.init(g))[0])(
                down_keys, gradients
            )
            # each client, on what the server sent back
            (slopes,) = pull(jax.vmap(lambda payload: down.decode(payload, like))(back))
            moved = jax.vmap(lambda params, memory, g: descend(params, memory, g, progress))(
                lower_params, lower_memory, slopes
            )
            lower_state = jax.vmap(choose)(targets > 0, moved, (lower_params, lower_memory))
            return (lower_state, upper_params, memory), (ahead, back, losses, targets)

        by_step = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batches)
        numbers = jnp.arange(len(batches.mask[0]))
        carry, (ahead, back, losses, targets) = jax.lax.scan(
            step, (each_client, upper_start, state.optimizer), (numbers, by_step)
        )
        (trained, _), upper_params, memory = carry
        end = jax.tree.map(jnp.subtract, trained, start)
        updates, counted, failed = leave_out_failed(end, weights)
        total = jnp.maximum(counted.sum(), jnp.finfo(jnp.float32).tiny)
        lower_params = jax.tree.map(
            lambda old, new: (
                old
                + (jnp.tensordot(counted, new, 1, precision="highest") / total).astype(old.dtype)
            ),
            start,
            updates,
        )
        params = join(lower_params, upper_params)
        change = jax.tree.map(jnp.subtract, params, state.params)
        count = jnp.maximum(targets.sum(axis=0), 1)
        info = ClientInfo((losses * targets).sum(axis=0) / count, targets.sum(axis=0))
        accepted = (counted > 0).sum(dtype=jnp.int32)
        server_info = ServerInfo(accepted, failed.sum(dtype=jnp.int32), optax.tree.norm(change))
        messages = SplitMessages(Start(start, round_number), ahead, back, end)
        return SplitState(params, memory, round_number), messages, info, server_info

    return SplitMethod(init, lambda params: (), one_round)


def _mean(
    gradients: tuple[PyTree, PyTree], weights: Float[Array, " clients"]
) -> tuple[PyTree, Float[Array, ""]]:
    """Average the first gradient over clients whose two are finite; return their weight too."""
    (kept, _), weights, _ = leave_out_failed(gradients, weights)
    total = weights.sum()
    share = weights / jnp.where(total > 0, total, 1.0)
    mean = jax.tree.map(
        lambda leaf: jnp.tensordot(share, leaf.astype(jnp.float32), 1, precision="highest").astype(
            leaf.dtype
        ),
        kept,
    )
    return mean, total
