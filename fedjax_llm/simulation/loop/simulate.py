"""Runs a federated algorithm round by round: cohorts, conditions, programs, ledger."""

from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import Any

import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_kind
from jaxtyping import Int

from ...algorithm import FederatedAlgorithm
from ...attacks.malicious import check_attackable, draw_malicious, with_attack
from ...client_training import Frozen, Params
from ...data import Batching, ClientData
from ...data.batches import batches_of_one
from ...privacy import Secret
from ..client_axes.contract import ClientAxis
from ..client_axes.on_one_device import vmap
from ..client_axes.placing import put_shared
from ..conditions.contract import Conditions
from ..conditions.faults import can_fail, with_failures
from ..conditions.planning import RoundPlanner, known_sizes, plan_rounds
from .arguments import (
    check_algorithm,
    check_batching,
    check_client_axis,
    check_clients,
    check_compiled,
    check_conditions,
    check_corpus,
    check_every_round,
    check_private,
    check_rounds,
    check_start,
    check_store,
)
from .chunk_results import chunks_of_round
from .client_store import ClientStore
from .cohorts import cohort_chunks, drawn_rows, sampled_cohorts
from .compiled_rounds import CompiledRounds, build_with
from .crafted import crafting
from .programs import (
    donating_round,
    first_state,
    measured_programs,
    round_programs,
)
from .round import Round, Snapshot, take_snapshot
from .run_round import RoundResult, StartedRound, at_once, in_chunks, may_wait


def simulate(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    seed: int,
    client_axis: ClientAxis | None = None,
    start: Snapshot | None = None,
    store: ClientStore | None = None,
    conditions: Conditions = Conditions(),
    secret: Secret | None = None,
    compiled: CompiledRounds | None = None,
    ahead: bool = False,
) -> Generator[Round, None, None]:
    """Run a federated algorithm, one round for each item that is requested.

    Each round draws a cohort from the corpus without replacement, trains its clients, and steps the
    server. A client's weight is its total number of targets (tokens to predict, pairs, texts), not
    the number visited in the round. Every message is made and counted.

    A client's numbers depend neither on the other clients of its cohort nor on the client axis
    (beyond rounding): every key is `fold_in(fold_in(key(seed), round), client)`. The same seed
    gives the same bits on one machine and client axis, also when the run resumes from a snapshot.

    The round is traced and compiled once. A thread makes the batches of the next clients while the
    device computes; it ends with the iterator.

    Under `conditions`, clients may drop out, stay silent, fail, do less work or answer late, and
    rounds take simulated time. The downlink is sent to the whole cohort, and counted. A client that
    does not answer in time has weight zero; if no client does, the server state stays unchanged,
    but for the memory of a downlink's codec and for rules with noise, which release it even so.
    It keeps its old client state, apart from what the algorithm's `uncounted` lets it keep of the
    new one. However many clients answer, nothing is compiled again.

    An algorithm with a `mechanism` draws its noise from `secret`: a rule's once a round, after all
    clients are folded in, that of `dp_sgd` for each client and step, and with a `rate` also the
    rows of each step. It is the same noise for every client axis. The secret is in no state and
    snapshot; a run that resumes needs it again and then draws the same noise.

    Args:
        algorithm: The algorithm, such as `fed_avg(...)`.
        params: Initial trainable parameters, a pytree. With `start`, the server's parameters come
            from the snapshot.
        frozen: Frozen parameters, a pytree; `()` if there are none.
        corpus: The clients' training data, such as a `Corpus` or the `train` of a `HoldOut`.
        batching: How a client's data is cut into local steps.
        rounds: Number of the last round: a run from a snapshot of round 3 with `rounds=10` runs
            rounds 4 to 10.
        clients: Clients in a cohort, from 1 to the number of clients in the corpus; with a sampler
            in `conditions`, the most.
        seed: Seed of the run.
        client_axis: How the clients run: `vmap()`, the default, `scan()`, `chunked(size)` or
            `sharded(...)`. They compute the same round up to rounding, and differ in memory and
            speed.
        start: Snapshot of an earlier run with the same arguments, to resume from; by default the
            run starts at round 1.
        store: An unused `ClientStore` for the client states, such as one on disk; by default one in
            memory.
        conditions: Faults, network, deadline, availability, attack and sampler; by default none.
        secret: The `Secret` of an algorithm with a `mechanism`; None, the default, for others.
        compiled: One `CompiledRounds()` for several calls, such as a sweep over seeds, to compile
            once; by default each call compiles.
        ahead: Whether the device may compute the next round while the host reads this one and the
            caller uses it, so that no device waits for the host. It does so for clients without
            states, without a network, in one process, in rounds of one chunk that leave at most
            64 MiB to read. False by default: nothing is computed between two rounds.

    Yields:
        The `Round` of each round: server state, cohort, messages and what was reported.

    Raises:
        TypeError: At the call, for an argument of the wrong kind.
        ValueError: At the call, for a number out of range, a deadline or availability without a
            network, or an algorithm with `every_round` under faults, a deadline, a sampler or in a
            cohort of some clients, or one with `every_message` under these but a deadline. For an
            algorithm with a `mechanism` without a `secret`, or under a deadline or an omniscient
            attack, through which one client's data would change what others send. At the first
            round, for a client without a link, and for an attack on the
            updates of an algorithm without an `attackable` codec (an `informed` one, if the attack
            is) or, if it is omniscient, on a `sharded` client axis. At a round that cannot begin,
            if too few clients are ever available again.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batching, byte_corpus
        >>> from fedjax_llm.ledger import total_bytes
        >>> from fedjax_llm.simulation import simulate
        >>> texts = {"ann": "to be or not to be, that is", "bob": "the question whether it is"}
        >>> corpus, batching = byte_corpus(texts), Batching(seq=8, batch=1, steps=2)
        >>> def loss(logits, frozen, batch):  # a unigram model of bytes
        ...     return -jax.nn.log_softmax(logits)[batch.targets].mean(where=batch.mask)
        >>> logits = jnp.zeros(256)
        >>> algorithm = fed_avg(loss, logits, client_optimizer=optax.sgd(1.0))
        >>> for r in simulate(algorithm, logits, (), corpus, batching, rounds=2, clients=2, seed=0):
        ...     print(r.round, r.clients, total_bytes(r.messages, "up"), r.state.params.shape)
        1 [0 1] 2072 (256,)
        2 [0 1] 2072 (256,)

    """
    who = "simulate"
    check_algorithm(algorithm, who=who)
    check_corpus(corpus, who=who)
    check_batching(batching, who=who)
    check_rounds(rounds, seed, who=who)
    check_clients(clients, len(corpus.names), who=who)
    check_client_axis(client_axis, who=who)
    check_start(start, who=who)
    check_store(store, who=who)
    check_conditions(conditions, who=who)
    check_compiled(compiled, who=who)
    check_kind(ahead, bool, who=who, name="ahead", expected="True or False")
    check_every_round(algorithm, clients, len(corpus.names), conditions, who=who)
    key, sampler, population = jr.key(seed), conditions.sampler, len(corpus.names)
    check_private(
        algorithm,
        conditions,
        secret,
        batching=batching,
        rounds=rounds,
        clients=clients,
        population=population,
        who=who,
    )
    return _simulate(
        algorithm,
        params,
        frozen,
        corpus,
        batching,
        rounds=rounds,
        clients=clients,
        key=key,
        axis=client_axis or vmap(),
        start=start,
        store=store,
        conditions=conditions,
        secret=secret,
        sampled=(
            sampled_cohorts(sampler, key, secret, population=population, clients=clients)
            if sampler
            else None
        ),
        build=build_with(compiled),
        ahead=ahead,
    )


def _simulate(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData,
    batching: Batching,
    *,
    rounds: int,
    clients: int,
    key: Any,
    axis: ClientAxis,
    start: Snapshot | None,
    store: ClientStore | None,
    conditions: Conditions,
    secret: Secret | None,
    sampled: Callable[[int], Int[np.ndarray, " cohort"]] | None,
    build: Callable[..., Any],
    ahead: bool,
) -> Generator[Round, None, None]:
    """`simulate` with checked arguments; `build` is of `build_with`."""
    mechanism = algorithm.mechanism
    planner = plan_rounds(
        conditions,
        corpus.names,
        lambda: known_sizes(algorithm, params, frozen, batches_of_one(corpus, batching)),
        lambda: can_fail(algorithm, params),
    )
    attack, malicious, crafts = conditions.attack, None, None
    if attack:
        check_attackable(algorithm, attack, params)
        malicious = draw_malicious(attack, key, len(corpus.names), who="simulate")
        algorithm = build(with_attack, algorithm, attack, clients)
        crafts = build(crafting, algorithm, attack, axis, clients) if attack.craft else None
    if planner.plan:
        algorithm = build(with_failures, algorithm)
    shared_frozen = put_shared(axis, frozen)
    uncounted, judge = algorithm.uncounted, planner.judge
    if axis.at_most or judge or crafts or secret:
        make_programs = measured_programs if judge or crafts else round_programs
        programs = build(make_programs, algorithm, axis, clients)
        run_round = in_chunks(
            programs,
            axis,
            shared_frozen,
            uncounted,
            judge,
            crafts,
            secret,
            mechanism,
        )
    else:
        program = build(donating_round, algorithm, axis)
        run_round = at_once(program, axis, shared_frozen, uncounted)
    store = store or ClientStore(algorithm.client_init(params))
    if start:
        store.scatter(*start.store)
        state = start.state
    else:
        state = first_state(algorithm, key, params)
    state = put_shared(axis, state)
    seconds = start.seconds if start else 0.0
    numbers = range((start.round if start else 0) + 1, rounds + 1)
    chunks = cohort_chunks(
        corpus,
        batching,
        store,
        key,
        rounds=numbers,
        clients=clients,
        client_axis=axis,
        planner=planner,
        now=lambda: seconds,
        malicious=malicious,
        sampled=sampled,
        drawn_rows=drawn_rows(mechanism, secret),
    )
    with closing(chunks):
        cohort = np.zeros(0, np.int32)

        def done(number: int, started: StartedRound) -> Round:
            nonlocal cohort, seconds
            result = started.read()
            cohort = result.clients
            if conditions.network:
                begins = seconds if result.begins is None else result.begins
                seconds = begins + _seconds(planner, result)
            snapshot = partial(take_snapshot, number, started.state, store, seconds)
            bad = None if malicious is None else malicious[cohort]
            after = started.state, *result[:4], snapshot, result.plan, seconds
            return Round(number, *after, malicious=bad)

        overlaps = ahead and not conditions.network and may_wait(store)
        waits: Callable[[], Round] | None = None
        for number in numbers:
            try:
                started = run_round(state, chunks_of_round(chunks, store, cohort), store)
            except Exception:
                if waits:
                    yield waits()
                raise
            state = started.state
            if waits:
                yield waits()
            waits = partial(done, number, started)
            if not (overlaps and started.may_wait):
                yield waits()
                waits = None
        if waits:
            yield waits()


def _seconds(planner: RoundPlanner, result: RoundResult) -> float:
    """Simulated seconds of a round, from the lengths of its messages."""
    lengths = {(e.client, e.direction): e.payload_bytes + e.header_bytes for e in result.messages}
    cohort = result.clients.tolist()
    if not cohort:
        return 0.0
    ups = np.array([lengths.get((client, "up"), 0) for client in cohort])
    assert result.plan is not None  # noqa: S101 - with a network there is a plan
    return planner.seconds(result.clients, result.plan, lengths[cohort[0], "down"], ups)
