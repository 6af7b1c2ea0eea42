"""The round of FedAvg: clients send a difference, and the server steps along the mean of them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import (
    Compressor,
    eden,
    has_receiver_memory,
    identity,
    payload_structure,
)
from fedjax_compression.checks import check_kind
from fedjax_compression.wrappers import predictive
from jaxtyping import Array, Key, PyTree

from ...aggregators.contract import Aggregator
from ...aggregators.weighted_mean import WeightedSum, weighted_mean
from ...algorithm import ClientState, Downlink, FederatedAlgorithm, ServerInfo, Uplink
from ...checks import check_codecs, check_optimizer
from ...client_training import Batches, ClientInfo, Frozen, Loss, Params, local_steps_with_state
from ...precision import cast, master_copy
from ...privacy.dp_sgd import KeyedBatches, PrivateLoss
from ...privacy.mechanism import Mechanism
from ...schedules import Progress, check_client_optimizer, first_step, needs_round
from .channel import ChannelState, Message, channel, keep_uplink
from .checks import (
    check_aggregate,
    check_like,
    check_loss,
    check_population,
    check_structure,
    one_mechanism,
)
from .failures import has_failed, nan_where
from .partials import (
    PartialAggregate,
    finish_round,
    first_round,
    gather_updates,
    integer_sums,
    server_result,
    server_step,
    stale_adder,
)
from .trees import choose

KNOWN = eden(bits=4)
"""Codec of the last aggregated update in the downlink."""


class Work(NamedTuple):
    """A client's computation in a round of `averaging`.

    Attributes:
        init: `(params) -> memory`: what lasts from round to round, such as an optimizer state; an
            empty tuple if nothing does.
        update: `(received, memory, frozen, batches, progress) -> (update, memory, info)`: from the
            received parameters to the update that the client sends, in their structure; messages
            have their dtypes. `progress` is the `Progress` of the first local step.
        numbered: Whether `update` needs the number of the round, which the downlink then carries
            in 4 bytes. Default: False.
        mechanism: What each local step releases with noise, where the loss is of `dp_sgd`; then
            `update` gets `KeyedBatches`. Default: None.

    """

    init: Callable[[Params], PyTree]
    update: Callable[
        [Params, PyTree, Frozen, Batches, Progress],
        tuple[PyTree, PyTree, ClientInfo],
    ]
    numbered: bool = False
    mechanism: Mechanism | None = None


class AveragingState(NamedTuple):
    """Server state of `averaging`.

    Attributes:
        params: The server's parameters, narrower ones as float32 copies.
        optimizer: State of the server optimizer.
        downlink: State of the downlink's sender.
        uplink: Memory of the uplink's receiver.
        known: The last aggregated update, as clients decode it once it is sent, if uplinks are
            coded relative to it; else empty.
        of_rule: The `RoundOfRule` of an aggregator with `begin`, the memory of one with noise; else
            empty.

    """

    params: Params
    optimizer: optax.OptState
    downlink: ChannelState
    uplink: PyTree
    known: PyTree
    of_rule: PyTree


class AveragingClient(NamedTuple):
    """Client state of `averaging`.

    Attributes:
        work: What lasts of the client's `Work`, such as an optimizer state.
        uplink: State of the uplink's sender.
        downlink: State of the downlink's receiver.

    """

    work: PyTree
    uplink: PyTree
    downlink: ChannelState


class AveragingDownlink(NamedTuple):
    """Downlink payload of `averaging`.

    Attributes:
        params: The server's parameters, through the downlink's codec.
        known: The last aggregated update, through `eden(bits=4)`, if uplinks are coded relative to
            it; else empty.

    """

    params: Message
    known: PyTree


def averaging(
    work: Work,
    like: Params,
    *,
    who: str,
    server_optimizer: optax.GradientTransformation,
    uplink: Compressor | None,
    downlink: Compressor | None,
    aggregate: Aggregator | None = None,
    prediction: float | int = 0.0,
    population: float | int | None = None,
) -> FederatedAlgorithm:
    """Build a method whose clients send an update of the server's parameters, and whose server
    takes minus the aggregated update as the gradient of its optimizer.

    A client whose loss or update is not finite sends NaNs, and keeps the memory of its work from
    before the round. Where no client is accepted, the server's state stays as it was, but for the
    downlink's memory; a rule with noise steps even so. A client
    whose message was not counted keeps the new memory of its work and the old state of its uplink's
    codec, such as a residual. Buffered rounds are possible unless a codec has receiver memory or
    there is a `prediction`.

    The receiver of an uplink with memory (`ef21`, `diana`) gets the accepted clients' share of
    `population`, so that its memory is the mean of what all clients hold.

    The server keeps and steps float32 copies of bfloat16 and float16 parameters; messages are in
    the dtypes of `like`. The server optimizer's state is in float32.

    Args:
        work: The client's computation, such as `fresh_optimizer(loss, optimizer, like)`.
        like: Structure of the parameters: arrays or ShapeDtypeStructs.
        who: The method, for messages.
        server_optimizer: Optax optimizer of the server.
        uplink: Codec of the updates; None is `identity()`.
        downlink: Codec of the parameters; None is `identity()`.
        aggregate: Rule that combines decoded updates; `weighted_mean()` by default.
        prediction: Factor from 0 to 1: uplinks are coded relative to that many times the last
            aggregated update, which the server sends along. 0 by default: sends nothing more.
        population: Sum of the weights of all clients, sampled or not. Only an uplink with receiver
            memory needs it. Default: None.

    Returns:
        A `FederatedAlgorithm` with an `AveragingState` and `AveragingClient`.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an uplink with receiver memory without a `population`, or with another rule
            than the mean; for `secure_mean` with an uplink whose messages do not add up, or with a
            `prediction`. From `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms.shared import averaging, fresh_optimizer
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["w"] ** 2).sum()
        >>> params, ones = {"w": jnp.ones((4, 2))}, jnp.ones((1, 1, 1))
        >>> method = averaging(
        ...     fresh_optimizer(loss, optax.sgd(0.1), params),
        ...     params,
        ...     who="mine",
        ...     server_optimizer=optax.sgd(1.0),
        ...     uplink=None,
        ...     downlink=None,
        ... )
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # 8 entries of 4 bytes, and 12 of header
        (44, 44)

    """
    check_kind(work, Work, who=who, name="work", expected="a Work")
    check_like(like, who=who)
    check_optimizer(server_optimizer, who=who, name="server_optimizer")
    check_codecs(who=who, known=("uplink",), uplink=uplink, downlink=downlink)
    check_aggregate(aggregate, who=who)
    aggregate = aggregate or weighted_mean()
    at_clients: Mechanism | None = None
    if aggregate.at_clients:
        uplink, at_clients = aggregate.at_clients.build(uplink, like)
        aggregate = aggregate._replace(at_clients=None)
    uplink, downlink = uplink or identity(), downlink or identity()
    down = channel(downlink, like, numbered=work.numbered)
    summing = aggregate.summing and aggregate.summing(uplink, like)
    if summing:
        if prediction:
            raise ValueError(
                f"{who}: prediction: expected 0 with a rule that adds the integers of messages, "
                f"got {prediction}."
            )
        aggregate = summing.rule
    noised = aggregate.noised
    mechanism = one_mechanism(work.mechanism, at_clients, noised and noised.mechanism, who=who)
    check_population(uplink, population, who=who)
    remembers = has_receiver_memory(uplink)
    any_cohort = 2**20  # nothing is allocated, and no rule refuses so many clients
    if remembers and not isinstance(
        jax.eval_shape(lambda: aggregate.empty(like, any_cohort)), WeightedSum
    ):
        raise ValueError(
            f"{who}: aggregate: expected weighted_mean() with an uplink that has receiver memory, "
            "which is the mean of what clients hold, got another rule."
        )

    knows = bool(prediction) or uplink.given is not None

    def uplink_given(known: PyTree) -> Compressor:
        coder = uplink.given(known) if uplink.given else uplink
        return predictive(coder, known, weight=prediction) if prediction else coder

    def init(key: Key[Array, ""], params: Params) -> AveragingState:
        check_structure(params, like, who=who)
        masters = master_copy(params)
        return AveragingState(
            masters,
            server_optimizer.init(masters),
            down.sender(params),
            uplink.receiver(params),
            jax.tree.map(jnp.zeros_like, params) if knows else (),
            first_round(aggregate, key, like),
        )

    def client_init(params: Params) -> ClientState:
        return AveragingClient(work.init(params), uplink.init(params), down.receiver(params))

    def broadcast(key: Key[Array, ""], state: AveragingState) -> tuple[Downlink, AveragingState]:
        sent, end = down.send(key, state.params, state.downlink)
        if not knows:
            return AveragingDownlink(sent, ()), state._replace(downlink=end)
        payload, _ = KNOWN.encode(jax.random.fold_in(key, 1), state.known, ())
        known = KNOWN.decode(payload, like)
        return AveragingDownlink(sent, payload), state._replace(downlink=end, known=known)

    def client_update(
        key: Key[Array, ""],
        frozen: Frozen,
        sent: Downlink,
        client_state: ClientState,
        batches: Batches,
    ) -> tuple[Uplink, ClientState, ClientInfo]:
        received, end = down.receive(sent.params, client_state.downlink)
        progress = first_step(sent.params.number, batches)
        if work.mechanism:
            key, noise_key = jax.random.split(key)
            batches = KeyedBatches(batches, noise_key)
        update, memory, info = work.update(received, client_state.work, frozen, batches, progress)
        update = cast(update, like)
        failed = has_failed(info, update)
        known = KNOWN.decode(sent.known, like) if knows else ()
        payload, coder = uplink_given(known).encode(
            key, nan_where(failed, update), client_state.uplink
        )  # where clients add noise, it also covers that one failed
        return payload, AveragingClient(choose(failed, client_state.work, memory), coder, end), info

    def decode(state: AveragingState, payload: Uplink) -> PyTree:
        if summing:
            return summing.read(payload)
        return uplink_given(state.known).decode(payload, like)

    def server_update(
        key: Key[Array, ""], state: AveragingState, partial: PartialAggregate
    ) -> tuple[AveragingState, ServerInfo]:
        total = partial.aggregate
        share = total.weight / population if remembers and population else 1.0
        combined, of_rule = finish_round(aggregate, key, state.of_rule, total)
        update, memory = uplink.receive(combined, state.uplink, share)
        params, optimizer = server_step(server_optimizer, state.params, state.optimizer, update)
        new = AveragingState(
            params,
            optimizer,
            state.downlink,
            memory,
            cast(update, like) if knows else (),
            of_rule,
        )
        new, info = server_result(partial, new, state, update, always=noised is not None)
        return new, info._replace(clipped=summing.clipped(total)) if summing else info

    # a stale answer was coded relative to an earlier update than the server now knows
    in_order = remembers or down.every_message or knows or bool(noised or summing)
    return FederatedAlgorithm(
        init,
        client_init,
        broadcast,
        client_update,
        gather_updates(decode, aggregate, like, round_of=lambda state: state.of_rule),
        server_update,
        uncounted=keep_uplink,
        every_message=down.every_message,
        add_stale=(
            None
            if in_order
            else stale_adder(decode, aggregate, like, round_of=lambda state: state.of_rule)
        ),
        mechanism=mechanism,
        sums=summing and integer_sums(summing, payload_structure(uplink, like), like),
    )


def fresh_optimizer(loss: Loss, optimizer: optax.GradientTransformation, like: Params) -> Work:
    """Build the work of local steps by an optimizer whose state starts afresh each round.

    Args:
        loss: The loss to minimise.
        optimizer: The Optax optimizer of the steps.
        like: Structure of the parameters: arrays or ShapeDtypeStructs.

    Returns:
        `Work` whose update is the trained minus the received parameters, and whose memory is
        empty.

    Raises:
        TypeError: For a loss that cannot be called, and for anything but an Optax optimizer.
        ValueError: For an Optax schedule, which would start again in each round.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.algorithms.shared import fresh_optimizer
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.schedules import first_step
        >>> def loss(params, frozen, batch):
        ...     return 0.5 * params**2
        >>> start, mask = jnp.float32(8), jnp.ones((2, 1, 1))
        >>> work, batches = fresh_optimizer(loss, optax.sgd(0.5), start), Batch(mask, mask, mask)
        >>> update, memory, _ = work.update(start, (), {}, batches, first_step((), batches))
        >>> float(update), memory  # 8 -> 4 -> 2
        (-6.0, ())

    """
    check_loss(loss, who="fresh_optimizer")
    check_client_optimizer(optimizer, like, who="fresh_optimizer", name="optimizer")
    train = local_steps_with_state(loss, optimizer)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, _, info = train(received, optimizer.init(received), frozen, batches, progress)
        return jax.tree.map(jnp.subtract, trained, received), memory, info

    return Work(lambda params: (), update, needs_round(optimizer, like), _mechanism(loss))


def persistent_optimizer(loss: Loss, optimizer: optax.GradientTransformation, like: Params) -> Work:
    """Build the work of local steps by an optimizer whose state stays on the client.

    Args:
        loss: The loss to minimise.
        optimizer: The Optax optimizer of the steps.
        like: Structure of the parameters: arrays or ShapeDtypeStructs.

    Returns:
        `Work` whose update is the trained minus the received parameters, and whose memory is the
        optimizer state.

    Raises:
        TypeError: For a loss that cannot be called, and for anything but an Optax optimizer.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_llm.algorithms.shared import persistent_optimizer
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.schedules import first_step
        >>> def loss(params, frozen, batch):
        ...     return 0.5 * params**2
        >>> start, mask = jnp.float32(8), jnp.ones((2, 1, 1))
        >>> work = persistent_optimizer(loss, optax.adam(0.5), start)
        >>> batches = Batch(mask, mask, mask)
        >>> _, memory, _ = work.update(
        ...     start, work.init(start), {}, batches, first_step((), batches)
        ... )
        >>> int(memory[0].count)  # Adam's two steps
        2

    """
    check_loss(loss, who="persistent_optimizer")
    check_optimizer(optimizer, who="persistent_optimizer", name="optimizer")
    train = local_steps_with_state(loss, optimizer)

    def update(
        received: Params, memory: PyTree, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, memory, info = train(received, memory, frozen, batches, progress)
        return jax.tree.map(jnp.subtract, trained, received), memory, info

    return Work(
        lambda params: optimizer.init(master_copy(params)),
        update,
        needs_round(optimizer, like),
        _mechanism(loss),
    )


def _mechanism(loss: Loss) -> Mechanism | None:
    return loss.mechanism if isinstance(loss, PrivateLoss) else None
