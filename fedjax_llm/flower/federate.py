"""The server of a federation over Flower: the loop of rounds, in the main function of its app."""

import functools
import hashlib
import json
import os
from collections.abc import Generator, Sequence
from typing import NamedTuple

import jax
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from fedjax_compression.errors import message
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from jaxtyping import Array, Int, Key, PyTree

from .._version import __version__
from ..algorithm import FederatedAlgorithm, ServerInfo, ServerState
from ..checks import check_count
from ..client_training import Frozen, Params
from ..ledger import Entry, messages
from ..simulation.checks import check_above_zero, check_seconds
from ..simulation.conditions.contract import Conditions
from ..simulation.loop.arguments import (
    check_algorithm,
    check_clients,
    check_every_round,
    check_rounds,
    check_without_noise,
)
from ..simulation.loop.cohorts import draw
from ..simulation.loop.programs import first_state
from .envelope import bytes_record
from .exchange import Asked, exchange_updates
from .nodes import Nodes
from .programs import server_programs
from .secure_sums import RECORD, SecureSums, check_secure, exchange_sums

MOST_TARGETS = 2**31 - 1
"""Most targets that a client may claim, unless `federate` is told otherwise."""


class Standing(NamedTuple):
    """What a federation resumes from, beside the arguments of `federate`.

    Attributes:
        round: The number of the last completed round.
        state: The server state after it.
        counted: For each client, the last round in which its message counted; 0 for none:
            `[population]`.

    """

    round: int
    state: ServerState
    counted: Int[np.ndarray, " population"]


class FlowerRound(NamedTuple):
    """The result of one round over Flower.

    Attributes:
        round: The round's number, from 1.
        state: The server state after it.
        clients: The names of the cohort, sorted as in the roster.
        counted: The names of the clients whose update was folded in.
        failed: Why each of the others was not, by name.
        server_info: What the server reports.
        messages: The ledger's entries: a downlink for each client that was sent one, and an uplink
            for each whose bytes came, whether they counted or not.
        envelope: Bytes that Flower added to the messages of the round, `(up, down)`: its serialised
            objects without our messages. HTTP and TLS come on top.
        standing: What the next round, or a later run, starts from.

    """

    round: int
    state: ServerState
    clients: tuple[str, ...]
    counted: tuple[str, ...]
    failed: dict[str, str]
    server_info: ServerInfo
    messages: list[Entry]
    envelope: tuple[int, int]
    standing: Standing


def federate(
    grid: Grid,
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    batches: PyTree,
    names: Sequence[str],
    *,
    run: str,
    rounds: int,
    clients: int,
    seed: int,
    timeout: float | int | None = None,
    join_seconds: float | int = 60,
    most_targets: int = MOST_TARGETS,
    start: Standing | None = None,
    secure: SecureSums | None = None,
) -> Generator[FlowerRound, None, None]:
    """Run a federated algorithm over the nodes of a Flower grid, one round for each item requested.

    A round draws its cohort as `simulate` does, sends each client the downlink, waits, and folds
    the updates in by the order of the roster. Its parameters are those of `simulate` with the
    client axis `chunked(1)`, the same data and the same seed.

    A client whose message is missing, late, malformed, of another codec, round or client, sent
    twice, or not finite counts as failed, by name and with the reason, and the round goes on
    without it. It keeps its old state, as it is told when it is next sent the model. If no client
    counts, the parameters stay as they were. An algorithm that needs every client in every round
    (`every_round`) stops instead: run it again from the last standing, and the round is repeated.
    One whose clients must receive every message (`every_message`) stops where a client sent no
    reply, as it may not have received the model.

    Args:
        grid: The grid that Flower gives to a server app.
        algorithm: The algorithm.
        params: Initial trainable parameters.
        frozen: Frozen parameters or their structure; they are not sent.
        batches: Structure of one client's batches, leaves `[steps, batch, ...]`: arrays or
            `ShapeDtypeStruct`s.
        names: The roster: the names of all clients, sorted. A client's position is its number.
        run: The run's name, under which clients keep their state.
        rounds: Number of the last round.
        clients: Clients in a cohort.
        seed: Seed of the run.
        timeout: Seconds to wait for a round's messages, which is also their time to live. By
            default the server waits until each is answered or Flower gives it up.
        join_seconds: Seconds to wait before the first round until each client of the roster has a
            node; then the rounds begin without the others. 60 by default.
        most_targets: Most targets that a client may claim, which is its weight in a mean; a client
            that claims more counts as failed. 2^31 - 1 by default.
        start: What to resume from; by default the run starts at round 1.
        secure: Parameters of secure sums, for an algorithm with `sums`, such as FedAvg with
            `secure_mean()`: the server then learns the sum of the clients' updates and none of
            them. A round takes four messages each way; one with fewer clients than the threshold
            fails, and nobody counts. By default the server reads single updates.

    Yields:
        The `FlowerRound` of each round.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a number out of range, for a roster that is not sorted, for an algorithm
            with `every_round` or `every_message` in cohorts of some clients, and for one with
            noise, which has no secret here; for one with `sums` without `secure`, and the reverse.
        RuntimeError: For an algorithm with `every_round`, from a round in which a client failed;
            for one with `every_message`, from a round in which a client sent no reply.

    Example:
        In the main function of a server app, which `server_app` makes with checkpoints:

        >>> def main(grid, context):
        ...     for done in federate(
        ...         grid, algorithm, params, (), batches, ("ann", "bob"),
        ...         run="first", rounds=10, clients=2, seed=0, timeout=600,
        ...     ):
        ...         print(done.round, done.counted, done.failed)

    """
    who = "federate"
    check_algorithm(algorithm, who=who)
    check_without_noise(algorithm, who=who)
    check_rounds(rounds, seed, who=who)
    check_clients(clients, len(names), who=who, among="the clients of the roster")
    if timeout is not None:
        check_above_zero(timeout, who=who, name="timeout", unit="seconds")
    check_seconds(join_seconds, who=who, name="join_seconds")
    check_count(most_targets, who=who, name="most_targets", at_most=MOST_TARGETS)
    if list(names) != sorted(set(names)):
        raise ValueError(message(who, "names", "each name once, sorted", list(names)))
    check_every_round(algorithm, clients, len(names), Conditions(), who=who)
    check_secure(algorithm, secure, who=who)
    if secure and secure.clients != clients:
        expected = f"{clients}, the clients of a cohort"
        raise ValueError(message(who, "secure.clients", expected, secure.clients))
    return _federate(
        grid,
        algorithm,
        params,
        frozen,
        batches,
        names,
        run=run,
        rounds=rounds,
        clients=clients,
        key=jr.key(seed),
        timeout=timeout,
        join_seconds=join_seconds,
        most_targets=most_targets,
        start=start,
        secure=secure,
    )


def _federate(
    grid: Grid,
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    batches: PyTree,
    names: Sequence[str],
    *,
    run: str,
    rounds: int,
    clients: int,
    key: Key[Array, ""],
    timeout: float | int | None,
    join_seconds: float | int,
    most_targets: int,
    start: Standing | None,
    secure: SecureSums | None,
) -> Generator[FlowerRound, None, None]:
    """`federate` with checked arguments."""
    sums = algorithm.sums  # as `secure`, or both are None
    programs = server_programs(algorithm, clients)
    down_like, up_like = messages(algorithm, params, batches, frozen=frozen)
    state = start.state if start else first_state(algorithm, key, params)
    counted = (start.counted if start else np.zeros(len(names), np.int64)).copy()
    origin, nodes = _origin(key, names, clients), Nodes(grid, names)
    nodes.wait(join_seconds, timeout)
    for number in range((start.round if start else 0) + 1, rounds + 1):
        round_key = jr.fold_in(key, number)
        cohort = draw(round_key, len(names), clients)[0].tolist()
        downlink, state, folded = programs.begin(round_key, state)
        data = wire.dumps(jax.device_get(downlink))
        record = bytes_record(data, down_like)
        here, failed = nodes.find(timeout), {}
        setup = secure and sums and secure.setup(os.urandom(16), sums)
        asked: dict[int, Message] = {}
        for client in cohort:
            if client not in here:
                failed[client] = nodes.missing(client)
                continue
            values = {
                "version": __version__,
                "run": run,
                "origin": origin,
                "client": names[client],
                "round": number,
                "counted": int(counted[client]),
                "key": _key_bytes(jr.fold_in(round_key, client)),
            }
            content = RecordDict({"downlink": record, "round": ConfigRecord(values)})
            if setup:
                content[RECORD] = ConfigRecord({"round": setup.round, "client": client})
            asked[client] = Message(
                content, here[client], "train", ttl=timeout, group_id=str(number)
            )
        first = Asked(number, names, asked, len(data), timeout)
        if sums and setup:
            done = exchange_sums(grid, first, folded, sums=sums, setup=setup)
        else:
            fold = functools.partial(programs.fold, state)
            done = exchange_updates(
                grid, first, up_like, folded, fold=fold, most_targets=most_targets
            )
        failed |= done.failed
        counted[done.counted] = number
        reasons = {names[client]: failed[client] for client in sorted(failed)}
        if reasons and (
            algorithm.every_round
            or (algorithm.every_message and (done.silent or set(cohort) - set(asked)))
        ):
            raise RuntimeError(
                f"federate: round {number}: expected every client, as the algorithm needs, got "
                f"none from {reasons}; mend that and run again, which repeats the round."
            )
        state, info = programs.finish(round_key, state, done.folded)
        yield FlowerRound(
            number,
            state,
            tuple(names[client] for client in cohort),
            tuple(names[client] for client in done.counted),
            reasons,
            jax.device_get(info),
            done.messages,
            done.envelope,
            Standing(number, state, counted.copy()),
        )


def _origin(key: Key[Array, ""], names: Sequence[str], clients: int) -> str:
    """What tells a run from another one of the same name, at the clients, and not its seed."""
    about = [jr.key_data(key).tolist(), list(names), clients]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _key_bytes(key: Key[Array, ""]) -> bytes:
    return np.asarray(jr.key_data(key)).astype("<u4").tobytes()
