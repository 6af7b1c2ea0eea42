"""The contract of a federated algorithm, and that of a split method with the halves it takes."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .client_training import Batches, ClientInfo, Frozen, Params
from .privacy.mechanism import Mechanism

ServerState = Any
"""A NamedTuple with a field `params`: the server's trainable parameters.

Those that the model has in bfloat16 or float16 are float32 copies, so that no small step is lost.
"""
ClientState: TypeAlias = PyTree
"""What one client keeps from round to round: an error-feedback residual, a control variate."""
Downlink: TypeAlias = PyTree
"""The payload that the server sends to every client of a cohort."""
Uplink: TypeAlias = PyTree
"""The payload that one client sends to the server."""
Partial: TypeAlias = PyTree
"""The aggregate of the clients folded in so far."""
Uncounted: TypeAlias = Callable[[ClientState, ClientState], ClientState]
"""`(old, new) -> client_state`: what a client keeps whose message was not counted."""
AddStale: TypeAlias = Callable[
    [ServerState, Partial, Uplink, Float[Array, " clients"], Float[Array, " clients"]], Partial
]
"""The kind of `FederatedAlgorithm.add_stale`."""


class ServerInfo(NamedTuple):
    """Metrics of one server update.

    Attributes:
        accepted: Number of clients whose update was folded in.
        failed: Number of clients that were left out because their update held a NaN or an
            infinity. Clients of weight zero are in neither number.
        update_norm: Euclidean norm of the aggregated update, or of what the method names instead.
        clipped: Entries of the accepted clients' updates that their codec clipped, for a rule that
            counts them (`secure_mean`). Default: None.

    """

    accepted: Int[Array, ""]
    failed: Int[Array, ""]
    update_norm: Float[Array, ""]
    clipped: Float[Array, ""] | None = None


class Gather(NamedTuple):
    """How the server combines uplinks, as a fold over chunks of clients.

    Memory is that of a chunk and one partial, not that of the cohort. A client of weight zero
    (dropped out, late, padding) counts as nothing; a client whose decoded update is not finite is
    left out and counted as failed.

    Attributes:
        empty: `(server_state, clients) -> partial`: the partial before any client; `clients` is
            the static size of the cohort.
        add: `(server_state, partial, uplinks, weights) -> partial`: decode a chunk of uplinks and
            fold them in. Every leaf of `uplinks` has a leading client axis, `[chunk, ...]`;
            `weights` is `[chunk]`, at least 0.
        merge: `(partial, partial) -> partial`: combine the partials of two devices or hosts.

    """

    empty: Callable[[ServerState, int], Partial]
    add: Callable[[ServerState, Partial, Uplink, Float[Array, " clients"]], Partial]
    merge: Callable[[Partial, Partial], Partial]


class IntegerSums(NamedTuple):
    """How a server that needs only the sum of its clients' integers gets on without their uplinks.

    A secure sum (`fedjax_llm.secure_aggregation`) adds the integers of uplinks, and `add` folds its
    result in, in place of `Gather.add`, which folds in the uplinks themselves to the same partial.

    Attributes:
        entries: Integers of a client.
        bits: Bits of an integer: it is at least -2^(bits - 1) and below 2^(bits - 1).
        clients: Most clients in a sum.
        wraps: Whether sums are meant modulo 2^bits.
        integers: `(uplink) -> integers`: those of one client, int32 `[entries]`.
        failed: `(integers) -> failed`: whether a client's update was not finite. Such integers must
            not be summed.
        add: `(partial, total, counted) -> partial`: fold in the sum of `counted` clients' integers,
            int32 `[entries]`.

    """

    entries: int
    bits: int
    clients: int
    wraps: bool
    integers: Callable[[Uplink], Int[Array, " entries"]]
    failed: Callable[[Int[Array, " entries"]], Bool[Array, ""]]
    add: Callable[[Partial, Int[Array, " entries"], Int[Array, ""]], Partial]


class FederatedAlgorithm(NamedTuple):
    """A federated training method as pure functions, which every runtime calls alike.

    A client reads only the downlink, its own state and its own data. The server reads only uplinks
    and weights. So everything that a real federation would transmit is in a payload. `params` is
    the trainable pytree alone; `frozen` is everything else, always an argument and never a closure.
    All functions trace under `jit` with static shapes. `client_update` is written for one client;
    the runtime adds the client axis, by `vmap` or a loop.

    The last seven fields declare what runtimes must know; `simulate` and `simulate_buffered` refuse
    a method that they cannot run correctly. A client's state and the server's move together: over
    the clients whose message was counted. A client whose message was not counted, because it was
    lost or came too late, keeps its old state, as if it had not been drawn, apart from what
    `uncounted` lets it keep. A client learns which of the two happened when it is next sent the
    model; the simulation transmits nothing for that.

    Attributes:
        init: `(key, params) -> server_state`: the state before the first round, which has a field
            `params`.
        client_init: `(params) -> client_state`: the state of a client before its first round, from
            the initial parameters. The runtime keeps it from round to round.
        broadcast: `(key, server_state) -> (downlink, server_state)`: the payload for all clients
            of the round.
        client_update: `(key, frozen, downlink, client_state, batches) -> (uplink, client_state,
            info)`: one client's round. `batches` has leaves `[steps, batch, ...]` and a field
            `mask`; `info` is a `ClientInfo`. A client whose training fails sends NaNs.
        gather: A `Gather`: how the server combines uplinks into a partial.
        server_update: `(key, server_state, partial) -> (server_state, info)`: the server's step,
            from the merged partial of the cohort; `info` is a `ServerInfo`. Where no client was
            accepted, the parameters stay as they were.
        personal: `(server_params, client_state) -> params`: the model of a client, if clients have
            models of their own; None (default) if all clients use the server's.
        uncounted: `(old, new) -> client_state`: the state that a client keeps if its message was
            not counted, selected from those before and after its update: the old one for all that
            the server's state depends on (a control variate, a shift, a residual of what was
            sent), the new one for what stays at the client (a personal model, the memory of a
            downlink). Leaves may have leading axes. None (default): all of the old one.
        every_round: Every client must take part in every round and be counted. False by default.
        every_message: Every client must receive every message of the server, as one that missed a
            message fails from then on; whether its answer counts does not matter. False by default.
        add_stale: `(server_state, partial, uplinks, weights, discounts) -> partial`: `gather.add`
            of answers to earlier models (`simulate_buffered`), with each update multiplied by its
            discount, from 0 to 1: `[chunk]`. None (default) where that is not possible: the
            server's state is the sum or mean of client states, or every client must receive every
            message.
        mechanism: What `server_update` releases in each round with noise from its key, for those
            who account for it; None (default) for a method without noise.
        sums: `IntegerSums` of a method whose server needs no more than the sum of its clients'
            integers (`secure_mean`); None (default) where it needs their uplinks.

    """

    init: Callable[[Key[Array, ""], Params], ServerState]
    client_init: Callable[[Params], ClientState]
    broadcast: Callable[[Key[Array, ""], ServerState], tuple[Downlink, ServerState]]
    client_update: Callable[
        [Key[Array, ""], Frozen, Downlink, ClientState, Batches],
        tuple[Uplink, ClientState, ClientInfo],
    ]
    gather: Gather
    server_update: Callable[[Key[Array, ""], ServerState, Partial], tuple[ServerState, ServerInfo]]
    personal: Callable[[Params, ClientState], Params] | None = None
    uncounted: Uncounted | None = None
    every_round: bool = False
    every_message: bool = False
    add_stale: AddStale | None = None
    mechanism: Mechanism | None = None
    sums: IntegerSums | None = None


class Asked(NamedTuple):
    """What the upper half needs of a `data.Batch`: everything but the tokens.

    Attributes:
        targets: Each token's successor, `[batch, seq]`.
        mask: Which targets count, `[batch, seq]`, booleans.
        segments: Document number of each token, `[batch, seq]`; None if each row is one text.
        positions: Position of each token in its document, `[batch, seq]`; None if each row is one
            text.

    """

    targets: Int[Array, "batch seq"]
    mask: Any
    segments: Int[Array, "batch seq"] | None
    positions: Int[Array, "batch seq"] | None


class Halves(NamedTuple):
    """A language model as two functions, below and above a cut between layers.

    Attributes:
        part: `(params) -> (lower_params, upper_params)`: split the trainable parameters.
        join: `(lower_params, upper_params) -> params`: the inverse of `part`.
        lower: `(lower_params, frozen, batch) -> activations`, `[batch, seq, width]`: the layers
            below the cut.
        upper: `(upper_params, frozen, activations, asked) -> loss`: the layers above the cut and
            the mean loss in nats per target; 0 if no target counts. `asked` is an `Asked`.

    """

    part: Callable[[Params], tuple[Params, Params]]
    join: Callable[[Params, Params], Params]
    lower: Callable[[Params, Frozen, Any], Float[Array, "batch seq width"]]
    upper: Callable[[Params, Frozen, Float[Array, "batch seq width"], Asked], Float[Array, ""]]


class SplitMessages(NamedTuple):
    """All payloads of one round of a split method.

    Attributes:
        start: The payload for every client before its first step, the same for all.
        ahead: The payloads from each client in each step: leaves `[steps, clients, ...]`.
        back: The payloads to each client in each step: leaves `[steps, clients, ...]`.
        end: The payloads from each client after its last step: leaves `[clients, ...]`.

    """

    start: PyTree
    ahead: PyTree
    back: PyTree
    end: PyTree


class SplitMethod(NamedTuple):
    """A method whose clients exchange messages with the server in every local step.

    It cannot be a `FederatedAlgorithm`: within each step the server computes on the messages of
    all clients, with frozen parameters that the clients do not have, and answers each client. So
    one function runs a whole round and returns its messages.

    Attributes:
        init: `(key, params) -> state`: the server's state before the first round, which has a
            field `params`: the trainable parameters of both halves of the model.
        client_init: `(params) -> client_state`: what a client keeps from round to round.
        round: `(round_key, frozen, state, clients, weights, batches) -> (state, messages,
            client_info, server_info)`: one round, traced. `clients` are the clients' numbers,
            `[clients]`, which make their keys; `weights` is `[clients]`, zero for a client that
            counts as nothing; `batches` has leaves `[clients, steps, batch, ...]`. `messages` is a
            `SplitMessages`, `client_info` a `ClientInfo` of leaves `[clients]`, `server_info` a
            `ServerInfo`.
        personal: None: all clients use one model.

    """

    init: Callable[[Key[Array, ""], Params], ServerState]
    client_init: Callable[[Params], ClientState]
    round: Callable[
        [
            Key[Array, ""],
            Frozen,
            ServerState,
            Int[Array, " clients"],
            Float[Array, " clients"],
            Batches,
        ],
        tuple[ServerState, SplitMessages, ClientInfo, ServerInfo],
    ]
    personal: Any = None
