"""SPRY (Panchal et al. 2024, arXiv:2405.15551), communicating each iteration."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor, identity
from fedjax_compression.checks import check_integer
from jaxtyping import Array, Float, Integer, Key, PyTree, UInt16

from ...aggregators.weighted_mean import weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs, check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params
from ...precision import float32_zeros, master_copy
from ...server_optimizers import fed_yogi
from ..shared.channel import ChannelState, Message, channel
from ..shared.checks import check_like, check_loss, check_structure
from ..shared.failures import nan_where
from ..shared.partials import PartialAggregate, gather_updates, server_result, server_step
from .slopes import Seed, along_all, forward, perturbation


class SpryState(NamedTuple):
    """Server state.

    Attributes:
        params: The parameters.
        optimizer: State of the server optimizer.
        downlink: State of the downlink's sender.

    """

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState


class SpryUplink(NamedTuple):
    """Uplink payload.

    Attributes:
        owned: Slice of tensors that the client drew for this round.
        seed: Seed of the client's directions.
        slopes: Slope of each draw, `[draws]`.

    """

    owned: UInt16[Array, ""]
    seed: Seed
    slopes: Float[Array, " draws"]


class Share(NamedTuple):
    """A decoded uplink.

    Attributes:
        gradient: Estimate of the gradient, zero outside the client's slice.
        owned: 1 for the client's slice, 0 for the others, `[slices]`.

    """

    gradient: PyTree[Float[Array, "..."]]
    owned: Float[Array, " slices"]


def spry(
    loss: Loss,
    like: Params,
    *,
    server_optimizer: optax.GradientTransformation | None = None,
    downlink: Compressor | None = None,
    slices: int | None = None,
    draws: int = 1,
) -> FederatedAlgorithm:
    """Clients send forward-mode slopes along directions within one slice of the tensors each; the
    server steps along the mean estimate of each slice. Fewer dimensions give less noise.

    A round is one step. The slope is that of the mean loss over all targets of the client's
    batches, by `jax.jvp`. Tensors are dealt to `slices` in turn; a client draws its slice and its
    directions from its key.

    Up: the slice, 2 bytes, the seed of the directions, 8, and `draws` slopes, 4 each; the size does
    not grow with the model. Down: the parameters, through `downlink`.

    Exact: the server draws the same directions as the client. For the clients of a slice, the
    estimate, the mean of slope * z, is unbiased for the slice of their gradient; with one draw its
    expected squared norm is d_s + 2 times that of the slice, which has d_s entries. A slice's
    gradient is the mean over its clients, by the runtime's weights, and zero if it has none.

    Departures: the paper's server deals slices so that each has a client; here the draw may leave
    one without. The paper's variant that sends weights after local epochs is not implemented. The
    pass goes through all tensors, with zeros outside the slice, so that it does not save the memory
    that the paper's does.

    A client that failed sends NaNs. Failures and codecs are handled as in `fed_avg`.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the trainable parameters: arrays or `ShapeDtypeStruct`s.
        server_optimizer: Optax optimizer that steps along the estimates; default: the
            paper's `fed_yogi`, with rate 0.001, which is ours.
        downlink: Codec of the parameters; default: uncompressed.
        slices: Number of slices, from 1 to the number of tensors and at most 2^16; default: one per
            tensor.
        draws: Directions per client, at least 1; default 1.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like`, the optimizer or the codec is of the wrong kind.
        ValueError: For a hyper-parameter out of range; from `init`, if the parameters do not have
            the structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import spry
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = spry(loss, like, draws=3)
        >>> tokens = np.zeros((1, 1, 4), int)  # one batch
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # slice, seed and 3 slopes
        22

    """
    check_loss(loss, who="spry")
    check_like(like, who="spry")
    check_optimizer(server_optimizer, who="spry", name="server_optimizer", optional=True)
    check_codecs(who="spry", downlink=downlink)
    tensors, structure = jax.tree.flatten(like)
    slices = len(tensors) if slices is None else slices
    most = min(len(tensors), 2**16)
    if type(slices) is not int or not 1 <= slices <= most:
        raise ValueError(
            f"spry: slices: expected an integer from 1 to {most}, for {len(tensors)} tensors, got "
            f"{slices!r}."
        )
    check_integer(draws, who="spry", name="draws", at_least=1)
    server_optimizer = server_optimizer or fed_yogi(0.001)
    down, mean = channel(downlink or identity(), like), weighted_mean()
    slope = along_all(forward(loss))
    slice_of = jax.tree.unflatten(structure, [i % slices for i in range(len(tensors))])

    def within(owned: Integer[Array, ""], seed: Seed, number: Integer[Array, ""]) -> PyTree:
        z = perturbation(like, seed, number)
        return jax.tree.map(lambda leaf, s: jnp.where(owned == s, leaf, 0.0), z, slice_of)

    def init(key: Key[Array, ""], params: Params) -> SpryState:
        check_structure(params, like, who="spry")
        masters = master_copy(params)
        return SpryState(masters, server_optimizer.init(masters), down.sender(params))

    def broadcast(key: Key[Array, ""], state: SpryState) -> tuple[Message, SpryState]:
        sent, end = down.send(key, state.params, state.downlink)
        return sent, state._replace(downlink=end)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        params, client_state = down.receive(sent, client_state)
        slice_key, seed_key = jr.split(key)
        owned = jr.randint(slice_key, (), 0, slices).astype(jnp.uint16)
        seed = jr.bits(seed_key, (2,), "uint32")
        slopes, infos = jax.lax.map(
            lambda n: slope(params, frozen, batches, within(owned, seed, n)), jnp.arange(draws)
        )
        info = ClientInfo(infos.loss[0], infos.targets[0])
        slopes = nan_where(~jnp.isfinite(info.loss), slopes)
        return SpryUplink(owned, seed, slopes), client_state, info

    def decode(state: SpryState, sent: Uplink) -> Share:
        def add(total: PyTree, number_and_slope: tuple) -> tuple[PyTree, None]:
            number, inner = number_and_slope
            z = within(sent.owned, sent.seed, number)
            return jax.tree.map(lambda t, z: t + inner / draws * z, total, z), None

        zeros = float32_zeros(like)
        gradient, _ = jax.lax.scan(add, zeros, (jnp.arange(draws), sent.slopes))
        return Share(gradient, (jnp.arange(slices) == sent.owned).astype(jnp.float32))

    def server_update(
        key: Key[Array, ""], state: SpryState, partial: PartialAggregate
    ) -> tuple[SpryState, ServerInfo]:
        gradient, owned = mean.finish(partial.aggregate)
        weight = jnp.where(owned > 0, owned, 1.0)
        update = jax.tree.map(lambda g, s: -g / weight[s], gradient, slice_of)
        params, memory = server_step(server_optimizer, state.params, state.optimizer, update)
        return server_result(
            partial, state._replace(params=params, optimizer=memory), state, update
        )

    gather = gather_updates(decode, mean, Share(like, jnp.zeros(slices)))
    return FederatedAlgorithm(
        init,
        down.receiver,
        broadcast,
        client_update,
        gather,
        server_update,
        uncounted=lambda old, new: new,
        every_message=down.every_message,
    )
