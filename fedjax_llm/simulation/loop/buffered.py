"""FedBuff: buffered asynchronous rounds (Nguyen et al. 2022, arXiv:2106.06639, algorithm 1)."""

import heapq
from collections.abc import Callable, Generator
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from fedjax_compression.errors import message
from jaxtyping import Array, Float, Int, Key, PyTree

from ...algorithm import Downlink, FederatedAlgorithm, Partial, ServerState, Uplink
from ...checks import check_count
from ...client_training import ClientInfo, Frozen, Params
from ...data import Batching, ClientData, cohort_batches, step_counts
from ...ledger import Entry, entry
from ..client_axes.on_one_device import vmap
from ..conditions.contract import Conditions, Plan
from ..conditions.faults import FaultyBatches, can_fail, with_failures
from ..conditions.planning import RoundPlanner, Sizes, plan_rounds
from .arguments import (
    check_algorithm,
    check_batching,
    check_clients,
    check_compiled,
    check_conditions,
    check_corpus,
    check_rounds,
    check_without_noise,
)
from .client_store import ClientStore, write_states
from .cohorts import data_keys, order
from .compiled_rounds import CompiledRounds, build_with
from .programs import first_state, round_programs
from .round import Round, Snapshot, take_snapshot


def simulate_buffered(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    buffer: int,
    seed: int,
    conditions: Conditions,
    compiled: CompiledRounds | None = None,
) -> Generator[Round, None, None]:
    """Run a federated algorithm with a server that steps after every `buffer` answers.

    `clients` clients are at work at any time, each from the model that it was sent. The server
    folds in each answer when it arrives; a round ends, with a server step, when it has `buffer` of
    them. A client that has answered or is gone is replaced at once by the next one in the order
    that the round draws of the population. Each round sends its model to a client at most once. If
    no client is left to be sent the model or to wait for, the server steps with the answers it has.

    An answer's weight is its client's number of targets. Its update is multiplied by
    (1 + staleness)^(-1/2), where staleness is the number of server steps taken while the client was
    at work: a buffer whose answers are all stale makes a smaller step, as in the paper. The answer
    is decoded with the server state that its client was sent. All answers of one instant are folded
    in before any client is replaced; if all clients take equally long and `buffer` equals
    `clients`, the results are those of `simulate`, to rounding.

    A client's state moves when its answer is folded in. A client whose answer does not come keeps
    its old state, apart from what the algorithm's `uncounted` lets it keep.

    Departure from the paper: the sum of discounted updates is divided by the sum of the weights,
    which is the paper's division by the buffer's size if all clients weigh the same.

    Cost: one program runs one client at a time, and a server state is held for each model that some
    client is still working on.

    Args:
        algorithm: The algorithm, with `add_stale`, which folds in answers to earlier models.
        params: Initial trainable parameters, a pytree.
        frozen: Frozen parameters, a pytree; `()` if there are none.
        corpus: The clients' training data.
        batching: How a client's data is cut into local steps.
        rounds: Number of server steps.
        clients: Clients at work at a time, from 1 to the number of clients in the corpus.
        buffer: Answers that a server step needs, at least 1.
        seed: Seed of the run.
        conditions: A network, and faults if wanted; no deadline, availability or attack.
        compiled: One `CompiledRounds()` for several calls to compile once; by default each call
            compiles.

    Yields:
        The `Round` of each server step. `clients` are those whose work ended in it, sorted, with
        the `staleness` of each; `messages` are those sent and received in it. A run cannot resume
        from its `snapshot`, which lacks the answers on their way.

    Raises:
        TypeError: At the call, for an argument of the wrong kind.
        ValueError: At the call, for a number out of range, for conditions without a network, or
            with a deadline, an availability or an attack, and for an algorithm without `add_stale`.
            At the first round, for a client without a link.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batching, byte_corpus
        >>> from fedjax_llm.simulation import Conditions, link, simulate_buffered
        >>> texts = {"ann": "to be or not to be, that is", "bob": "the question whether it is"}
        >>> corpus = byte_corpus(texts)
        >>> def loss(logits, frozen, batch):  # a unigram model of bytes
        ...     return -jax.nn.log_softmax(logits)[batch.targets].mean(where=batch.mask)
        >>> logits = jnp.zeros(256)
        >>> algorithm = fed_avg(loss, logits, client_optimizer=optax.sgd(1.0))
        >>> run = simulate_buffered(
        ...     algorithm,
        ...     logits,
        ...     (),
        ...     corpus,
        ...     Batching(seq=8, batch=1, steps=2),
        ...     rounds=2,
        ...     clients=2,
        ...     buffer=1,
        ...     seed=0,
        ...     conditions=Conditions(network=link(uplink=1e6, downlink=1e6, step=1.0)),
        ... )
        >>> [int(r.server_info.accepted) for r in run]
        [1, 1]

    """
    who = "simulate_buffered"
    check_algorithm(algorithm, who=who)
    check_corpus(corpus, who=who)
    check_batching(batching, who=who)
    check_rounds(rounds, seed, who=who)
    check_clients(clients, len(corpus.names), who=who)
    check_count(buffer, who=who, name="buffer", at_least=1)
    check_conditions(conditions, who=who)
    _check_buffered(conditions)
    check_without_noise(algorithm, who=who)
    if algorithm.add_stale is None:
        raise ValueError(
            f"{who}: algorithm: expected one with add_stale, which folds in answers to "
            "earlier models, got one without; use simulate, or a method like fed_avg "
            "with codecs that have no receiver memory."
        )
    check_compiled(compiled, who=who)
    return _simulate_buffered(
        algorithm,
        params,
        frozen,
        corpus,
        batching,
        rounds=rounds,
        clients=clients,
        buffer=buffer,
        key=jr.key(seed),
        conditions=conditions,
        build=build_with(compiled),
    )


def _simulate_buffered(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    buffer: int,
    key: Any,
    conditions: Conditions,
    build: Callable[..., Any],
) -> Generator[Round, None, None]:
    """`simulate_buffered` with checked arguments; `build` is of `build_with`."""
    store = ClientStore(algorithm.client_init(params))
    planner = plan_rounds(
        conditions, corpus.names, lambda: Sizes(0, 0), lambda: can_fail(algorithm, params)
    )
    state = first_state(algorithm, key, params)
    programs = build(round_programs, algorithm, vmap(), buffer)
    train, add = build(_train_program, algorithm), build(_add_program, algorithm)
    send = partial(_send, train, frozen, corpus, batching, planner, store)
    targets, sequence = corpus.targets().astype(np.float32), count()
    at_work: list[tuple[float, int, _Answer]] = []  # a heap: arrival time, order of sending
    now = 0.0
    for number in range(1, rounds + 1):
        round_key = jr.fold_in(key, number)
        downlink, state, folded = programs.begin(round_key, state)
        model = _Model(
            number, round_key, downlink, state, len(wire.dumps(jax.device_get(downlink)))
        )
        next_clients = iter(order(round_key, len(corpus.names)).tolist())
        ended: list[_Answer] = []
        messages: list[Entry] = []
        while sum(bool(answer.plan.counted[0]) for answer in ended) < buffer:
            if not at_work or at_work[0][0] > now:
                busy = {answer.client for _, _, answer in at_work}
                while len(at_work) < clients and (client := next(next_clients, None)) is not None:
                    if client not in busy:
                        answer = send(model, client)
                        heapq.heappush(at_work, (now + answer.seconds, next(sequence), answer))
                        messages.append(entry(number, client, "down", model.bytes))
            if not at_work:
                break
            now, _, answer = heapq.heappop(at_work)
            ended.append(answer)
            write_states(
                store,
                np.array([answer.client], np.int32),
                answer.client_state,
                trained=answer.plan.trained,
                counted=answer.plan.counted,
                uncounted=algorithm.uncounted,
            )
            if answer.plan.answers[0]:
                messages.append(entry(number, answer.client, "up", answer.bytes))
                staleness = number - answer.model.number
                discount = np.float32((1 + staleness) ** -0.5)
                weight = targets[answer.client]
                folded = add(answer.model.state, folded, answer.uplink, weight, discount)
        state, server_info = programs.finish(round_key, state, folded)
        snapshot = partial(take_snapshot, number, state, store, now)
        yield _round(number, state, ended, jax.device_get(server_info), messages, snapshot, now)


class _Model(NamedTuple):
    """The model that a round sends: its downlink, and the server state that decodes answers."""

    number: int
    round_key: Key[Array, ""]
    downlink: Downlink
    state: ServerState
    bytes: int


class _Answer(NamedTuple):
    """A client's answer, computed when the client is sent the model and used when it arrives.

    Attributes:
        client: The client's number.
        model: The model that it was sent.
        plan: Its plan, leaves `[1]`.
        client_state: Its state after training: leaves `[1, ...]` on the host.
        uplink: Its uplink.
        info: What it reports.
        bytes: Bytes of the uplink; 0 if it is not sent.
        seconds: Simulated seconds from sending the model to the end of the client's work.

    """

    client: int
    model: _Model
    plan: Plan
    client_state: PyTree
    uplink: Uplink
    info: ClientInfo
    bytes: int
    seconds: float


def _train_program(
    algorithm: FederatedAlgorithm,
) -> Callable[..., tuple[Uplink, PyTree, ClientInfo]]:
    """The jitted update of one client that may fail."""
    faulty = with_failures(algorithm)

    def train(
        round_key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        client: Int[Array, ""],
        client_state: PyTree,
        batches: Any,
    ) -> tuple[Uplink, PyTree, ClientInfo]:
        client_key = jr.fold_in(round_key, client)
        return faulty.client_update(client_key, frozen, downlink, client_state, batches)

    return jax.jit(train)


def _add_program(algorithm: FederatedAlgorithm) -> Callable[..., Partial]:
    """The jitted fold of one answer."""

    def add(
        state: ServerState,
        partial: Partial,
        uplink: Uplink,
        weight: Float[Array, ""],
        discount: Float[Array, ""],
    ) -> Partial:
        assert algorithm.add_stale is not None  # noqa: S101 - as it is checked
        rows = jax.tree.map(lambda leaf: leaf[None], (uplink, weight, discount))
        return algorithm.add_stale(state, partial, *rows)

    return jax.jit(add)


def _send(
    train: Callable[..., tuple],
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    planner: RoundPlanner,
    store: ClientStore,
    model: _Model,
    client: int,
) -> _Answer:
    """Send the model to a client and train it."""
    cohort = np.array([client], np.int32)
    assert planner.plan is not None  # noqa: S101 - with a network there is a plan
    steps = step_counts(corpus, batching, [client])
    plan = planner.plan(model.number, model.round_key, cohort, steps)
    keys = data_keys(model.round_key, cohort)
    batches = cohort_batches(corpus, batching, [client], keys, steps=plan.steps)
    faulty = jax.tree.map(lambda leaf: leaf[0], FaultyBatches(batches, plan.failed))
    client_state = jax.tree.map(lambda leaf: leaf[0], store.gather(cohort))
    uplink, client_state, info = train(
        model.round_key, frozen, model.downlink, jnp.int32(client), client_state, faulty
    )
    client_state = jax.tree.map(lambda leaf: np.asarray(leaf)[None], client_state)
    ups = np.array([len(wire.dumps(jax.device_get(uplink))) if plan.answers[0] else 0])
    seconds = planner.seconds(cohort, plan, model.bytes, ups)
    return _Answer(
        client, model, plan, client_state, uplink, jax.device_get(info), int(ups[0]), seconds
    )


def _round(
    number: int,
    state: ServerState,
    ended: list[_Answer],
    server_info: Any,
    messages: list[Entry],
    snapshot: Callable[[], Snapshot],
    now: float,
) -> Round:
    ended = sorted(ended, key=lambda answer: answer.client)
    return Round(
        number,
        state,
        np.array([answer.client for answer in ended], np.int32),
        jax.tree.map(lambda *rows: np.stack(rows), *(answer.info for answer in ended)),
        server_info,
        messages,
        snapshot,
        jax.tree.map(lambda *rows: np.concatenate(rows), *(answer.plan for answer in ended)),
        now,
        np.array([number - answer.model.number for answer in ended]),
    )


def _check_buffered(conditions: Conditions) -> None:
    """Raise `ValueError` unless the conditions have a network and nothing that rounds wait for."""
    who = "simulate_buffered"
    if conditions.network is None:
        expected = "a network, which decides who answers first"
        raise ValueError(
            message(who, "conditions.network", expected, None, "add network=link(...)")
        )
    for name in ("deadline", "availability", "attack", "sampler"):
        condition = getattr(conditions, name)
        if condition is not None:
            expected = "None, because no round waits for its clients"
            raise ValueError(message(who, f"conditions.{name}", expected, condition))
