"""The error of the mean: what codecs do to the sum of many clients' updates."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import Compressor, codec, wire
from jaxtyping import PyTree
from rich import box
from rich.table import Table

from ..algorithm import FederatedAlgorithm
from ..data import cohort_batches
from ..runs import Row, RunConfig, prepare, rounds
from ..simulation import scan

CLIENTS = 32
ROUNDS = (2, 4, 8)
"""Rounds of the run in which `fedjax-llm codecs` measures the error of the mean."""
UPLINK = "preconditioned(trellis_fixed(bits=0.25))"
"""Uplink codec of the run whose updates are coded; its last mean, with its noise, is known."""


class Cohort(NamedTuple):
    """The updates of the clients of one round.

    Attributes:
        round: Number of the round, from 1.
        known: The last round's mean update as both ends have it, for codecs with `given`.
        updates: A leading axis of clients.

    """

    round: int
    known: PyTree
    updates: PyTree


def cohorts(numbers: Sequence[int], *, seed: int) -> Iterator[Cohort]:
    """Yield the updates of 32 clients of the default run in some of its rounds.

    The run is FedAvg on the plays of Shakespeare whose uplinks are coded by `UPLINK`; the updates
    are what its clients would send without a codec.

    Args:
        numbers: The rounds, from 2: in the first, nothing is known. Order and repeats do not count.
        seed: Seed of the run and of the clients that are drawn.

    """
    wanted = sorted(set(numbers))
    if not wanted:
        return
    run = prepare(RunConfig(rounds=wanted[-1], clients=CLIENTS, seed=seed, uplink=UPLINK))
    plain = cast(
        FederatedAlgorithm, prepare(RunConfig(rounds=1, clients=CLIENTS, seed=seed)).algorithm
    )
    broadcast = cast(FederatedAlgorithm, run.algorithm).broadcast
    client_update, frozen = plain.client_update, run.task.frozen
    everyone = len(run.split.train.names)

    @jax.jit
    def updates(sent: PyTree, client: PyTree, keys: PyTree, batches: PyTree) -> PyTree:
        def one(each: tuple[PyTree, PyTree]) -> PyTree:
            return client_update(each[0], frozen, sent, client, each[1])[0]

        return jax.lax.map(one, (keys, batches))

    for done in rounds(run, scan()):
        if done.round + 1 not in wanted:
            continue
        key = jr.fold_in(jr.key(seed), done.round)
        _, state = broadcast(key, done.state)
        empty = plain.init(key, run.task.params)
        sent, _ = plain.broadcast(key, empty._replace(params=state.params))
        drawn = np.random.default_rng((seed, done.round)).permutation(everyone)[:CLIENTS]
        keys = jr.split(key, CLIENTS)
        batches = cohort_batches(
            run.split.train, run.batching, drawn.tolist(), np.asarray(jr.key_data(keys))
        )
        client = plain.client_init(run.task.params)
        yield Cohort(done.round + 1, state.known, updates(sent, client, keys, batches))


def measure_means(codecs: Sequence[str], kept: Sequence[Cohort]) -> Iterator[Row]:
    """Yield a row for each codec and cohort: bytes made, and the error of the mean.

    Each row has `error_of_mean`, ‖mean of decoded - mean‖² / ‖mean‖² over the clients, the mean of
    two draws of the codec's keys, and `bias_of_mean`, the part of it that the two draws share: what
    other clients, or other rounds, do not average out. Every sender starts afresh, so that codecs
    with memory show their first message. `bits_per_entry` is of a client's whole message.

    Args:
        codecs: Codecs as texts.
        kept: Cohorts.

    """
    for text in codecs:
        for cohort in kept:
            yield {"codec": text, "round": cohort.round} | mean_error(codec(text), cohort)


def mean_error(built: Compressor, cohort: Cohort) -> Row:
    """Measure one codec on one cohort; see `measure_means`."""
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), cohort.updates
    )
    clients = len(jax.tree.leaves(cohort.updates)[0])
    entries = sum(leaf.size for leaf in jax.tree.leaves(cohort.updates)) // clients

    @jax.jit
    def through(keys: PyTree, updates: PyTree, known: PyTree) -> tuple[PyTree, PyTree]:
        given = built.given(known) if built.given else built

        def one(each: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
            state = given.init(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))
            payload, _ = given.encode(each[0], each[1], state)
            return payload, given.decode(payload, like)

        payloads, decoded = jax.lax.map(one, (keys, updates))
        mean = jax.tree.map(lambda leaf: leaf.mean(axis=0), decoded)
        return payloads, built.receive(mean, built.receiver(like), 1.0)[0]

    mean = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64).mean(axis=0), cohort.updates)
    errors, lengths = [], []
    for draw in range(2):
        keys = jr.split(jr.key(draw), clients)
        payloads, decoded = through(keys, cohort.updates, cohort.known)
        errors.append(jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, decoded, mean))
        payloads = jax.device_get(payloads)
        for client in range(clients):
            payload = jax.tree.map(lambda leaf, own=client: leaf[own], payloads)
            lengths.append(len(wire.dumps(payload)))
    power = _product(mean, mean)
    own = [_product(error, error) / power for error in errors]
    return {
        "clients": clients,
        "entries": entries,
        "bytes": sum(lengths) / len(lengths),
        "bits_per_entry": 8 * sum(lengths) / len(lengths) / entries,
        "error_of_mean": sum(own) / 2,
        "bias_of_mean": max(0.0, _product(*errors) / power),
    }


def mean_table(rows: Sequence[Row]) -> Table:
    """One line per codec: bits per entry, and the error of the mean at each round."""
    numbers = list(dict.fromkeys(row["round"] for row in rows))
    out = Table(
        title=f"Error of the mean of {rows[0]['clients']} clients' updates", box=box.SIMPLE_HEAD
    )
    out.caption = (
        "Squared error of the mean over its squared norm. Bias is what two draws of the codec "
        "have in common: it does not average out over clients and rounds."
    )
    out.add_column("codec", min_width=24, overflow="fold")
    out.add_column("bits per\nentry", justify="right", no_wrap=True)
    for number in numbers:
        out.add_column(f"round {number}\nerror", justify="right", no_wrap=True)
        out.add_column("bias", justify="right", no_wrap=True)
    for text in dict.fromkeys(row["codec"] for row in rows):
        own = {row["round"]: row for row in rows if row["codec"] == text}
        rate = sum(row["bits_per_entry"] for row in own.values()) / len(own)
        cells = [text, f"{rate:.4f}"]
        for number in numbers:
            cells += [f"{own[number][name]:.3g}" for name in ("error_of_mean", "bias_of_mean")]
        out.add_row(*cells)
    return out


def _product(a: PyTree, b: PyTree) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return float(sum((x * y).sum() for x, y in pairs))
