"""SplitLoRA (Lin et al. 2024, arXiv:2407.00952, algorithm 1)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.ops.bits import pack, unpack
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from ...aggregators.failures import leave_out_failed
from ...algorithm import ServerInfo, SplitMessages, SplitMethod
from ...client_training import ClientInfo, Frozen, Params
from ...data import Batch
from ...tasks import Asked, Halves
from ..shared.checks import check_keeps_nothing, check_structure
from ..shared.trees import choose


class SplitState(NamedTuple):
    """What the server keeps."""

    params: Params
    """Of both halves: the lower as the clients' mean, the upper as the server trains it."""
    optimizer: optax.OptState
    """Of the upper half."""


class Ahead(NamedTuple):
    """What a client sends in a step."""

    activations: PyTree
    targets: UInt8[Array, " bytes"]
    """Each in ceil(log2(vocab)) bits."""
    mask: UInt8[Array, " bytes"]
    """A bit each."""
    segments: PyTree
    """As the batch has them, where rows hold several documents."""
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
    """Clients hold the first `cut` layers and train their LoRA; the server holds the others, and
    trains theirs on what all clients send it.

    In each step a client sends the activations behind its last layer, through `uplink`, with the
    targets and which of them count: the server has the labels, as in the paper. The server takes
    each client's loss, steps its half along the mean of their gradients, by the runtime's weights,
    and sends each the gradient at its own activations, through `downlink`; with it the client
    steps its half. After a round's steps clients send what their half has changed by, and all go on
    from the mean. Up, each step: 4 bytes an activation, or as the codec has it, ceil(log2(vocab))
    bits a target and one for the mask; down, each step: as many bytes as activations. Once a round
    the lower half's parameters go down, and their differences up.

    Exact where both codecs are the identity: both halves' gradients are those of the whole model. A
    codec on the way up changes what the server sees, and its gradient is taken as if there were
    none. One step of SGD is that of `fed_sgd`. `client_optimizer` is that of both halves; a
    client's state starts afresh each round, the server's lasts.
    Activations and labels tell of a client's text: nothing here hides it.
    Cost: for each client in a step, what the server holds of its half to take a gradient.

    A client whose activations or loss are not finite gets NaNs back, sends NaNs to the end of the
    round, and is left out.
    Raises `ValueError` for a codec that keeps a memory, what `halves` raises, and where the
    parameters do not have the structure of `like`.
    """
    who, up, down = "split_lora", uplink or identity(), downlink or identity()
    for name, codec in (("uplink", up), ("downlink", down)):
        check_keeps_nothing(codec, name=name, who=who)
    try:
        part, join, lower, upper = halves(cut)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    bits = max(1, (vocab - 1).bit_length())

    def init(key: Key[Array, ""], params: Params) -> SplitState:
        check_structure(params, like, who=who)
        return SplitState(params, client_optimizer.init(part(params)[1]))

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
        """Of one client: loss, targets, and the gradients at the upper half and its activations."""
        rows, size = like.shape[:2], like.shape[0] * like.shape[1]
        targets = unpack(sent.targets, size, bits=bits).astype(jnp.int32).reshape(rows)
        mask = unpack(sent.mask, size, bits=1).reshape(rows) > 0
        asked = Asked(targets, mask, sent.segments, sent.positions)
        activations = up.decode(sent.activations, like)
        value, (own, gradient) = jax.value_and_grad(
            lambda params, hidden: upper(params, frozen, hidden, asked), argnums=(0, 1)
        )(params, activations)
        failed = ~(jnp.isfinite(value) & jnp.isfinite(activations).all())
        return value, mask.sum(dtype=jnp.int32), own, jnp.where(failed, jnp.nan, gradient)

    def descend(params: Params, memory: optax.OptState, gradient: Params) -> tuple[Params, Any]:
        step, memory = client_optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, step), memory

    def one_round(
        key: Key[Array, ""],
        frozen: Frozen,
        state: SplitState,
        clients: Int[Array, " clients"],
        weights: Float[Array, " clients"],
        batches: Any,
    ) -> tuple[SplitState, SplitMessages, ClientInfo, ServerInfo]:
        start, above = part(state.params)
        keys = jax.vmap(jr.fold_in, (None, 0))(key, clients)
        fresh = start, client_optimizer.init(start)
        own = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(weights)), fresh)

        def step(carry: tuple, here: tuple[Array, Batch]) -> tuple[tuple, tuple]:
            own, above, memory = carry
            number, batch = here
            up_keys, down_keys = jax.vmap(
                lambda key: jr.split(jr.fold_in(key, number)), out_axes=1
            )(keys)
            # Each client, with its own text:
            run = jax.vmap(lambda params, batch: lower(params, frozen, batch))
            activations, pull = jax.vjp(lambda params: run(params, batch), own[0])
            ahead = jax.vmap(send_ahead)(up_keys, activations, batch)
            # The server, with what they sent:
            one = jax.ShapeDtypeStruct(activations.shape[1:], activations.dtype)
            losses, targets, each, gradients = jax.vmap(
                lambda sent: serve(frozen, above, sent, one)
            )(ahead)
            mean, shares = _mean((each, gradients), weights * (targets > 0))
            new = descend(above, memory, mean)
            above, memory = choose(shares > 0, new, (above, memory))
            back = jax.vmap(lambda key, g: down.encode(key, g, down.init(g))[0])(
                down_keys, gradients
            )
            # Each client, with what came back:
            (slopes,) = pull(jax.vmap(lambda payload: down.decode(payload, one))(back))
            params, memories = own
            moved = jax.vmap(descend)(params, memories, slopes)
            own = jax.vmap(choose)(targets > 0, moved, own)
            return (own, above, memory), (ahead, back, losses, targets)

        by_step = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batches)
        numbers = jnp.arange(len(batches.mask[0]))
        carry, (ahead, back, losses, targets) = jax.lax.scan(
            step, (own, above, state.optimizer), (numbers, by_step)
        )
        (trained, _), above, memory = carry
        end = jax.tree.map(jnp.subtract, trained, start)
        updates, taken, failed = leave_out_failed(end, weights)
        total = jnp.maximum(taken.sum(), jnp.finfo(jnp.float32).tiny)
        below = jax.tree.map(
            lambda old, new: old + (jnp.tensordot(taken, new, 1) / total).astype(old.dtype),
            start,
            updates,
        )
        params = join(below, above)
        change = jax.tree.map(jnp.subtract, params, state.params)
        seen = jnp.maximum(targets.sum(axis=0), 1)
        info = ClientInfo((losses * targets).sum(axis=0) / seen, targets.sum(axis=0))
        accepted = (taken > 0).sum(dtype=jnp.int32)
        watched = ServerInfo(accepted, failed.sum(dtype=jnp.int32), optax.tree.norm(change))
        messages = SplitMessages(start, ahead, back, end)
        return SplitState(params, memory), messages, info, watched

    return SplitMethod(init, lambda params: (), one_round)


def _mean(
    made: tuple[PyTree, PyTree], weights: Float[Array, " clients"]
) -> tuple[PyTree, Float[Array, ""]]:
    """The weighted mean of the first of what clients made both finite, and the weight of these."""
    (kept, _), shares, _ = leave_out_failed(made, weights)
    total = shares.sum()
    share = shares / jnp.where(total > 0, total, 1.0)
    mean = jax.tree.map(
        lambda leaf: jnp.tensordot(share, leaf.astype(jnp.float32), 1).astype(leaf.dtype), kept
    )
    return mean, total
