"""Rounds with omniscient attacks: malicious clients answer when all honest updates are known.

Every client first answers honestly, and its update as the server would decode it is kept. From the
honest ones the attack crafts an update, which each malicious client then encodes in place of its
own, from the same key, state and data. Its first message is never sent, nor counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.errors import message
from jaxtyping import Array, Bool, Int, Key, PyTree

from ...aggregators.rows import finite_rows
from ...algorithm import Downlink, FederatedAlgorithm
from ...attacks.contract import Attack, Known
from ...attacks.malicious import ATTACK, AttackedBatches, Observed
from ...client_training import Frozen
from ...ledger import lengths
from ..client_axes.contract import ClientAxis
from ..conditions.faults import FaultyBatches
from .chunk_results import ChunkResult
from .cohorts import CohortChunk


class ObservedRound:
    """What is kept of a round's chunks until all of them are done."""

    def __init__(self) -> None:
        self.inputs: list[dict[int, tuple]] = []
        self.seen: list[PyTree] = []

    def keep(self, chunk: CohortChunk) -> None:
        """Keep the inputs of a chunk's malicious clients: their states and batches, by row."""
        batches = chunk.batches
        if isinstance(batches, FaultyBatches):
            batches = batches.batches
        inputs = chunk.client_states, batches.batches, batches.number
        self.inputs.append({row: _row(inputs, row) for row in _rows(chunk)})

    def read(self, chunk: CohortChunk, outputs: tuple) -> tuple:
        """Keep the updates that a chunk's uplinks decode to; return its outputs without them."""
        observed, info = outputs
        assert isinstance(observed, Observed)  # noqa: S101 - as with_attack makes it
        valid = slice(chunk.valid)
        self.seen.append(jax.tree.map(lambda leaf: np.asarray(leaf)[valid], observed.seen))
        return observed.uplink, info


class Crafting(NamedTuple):
    """The programs of an omniscient attack.

    Attributes:
        craft: `(round_key, updates, answers, malicious) -> crafted`: updates are leaves
            `[cohort, ...]` of a list, one for each codec of a client.
        answer: `(round_key, frozen, downlink, client, client_state, batches, number, crafted) ->
            (uplink, client_state)` of a malicious client.

    """

    craft: Callable[..., PyTree]
    answer: Callable[..., tuple[PyTree, PyTree]]

    def rewrite(
        self,
        observed: ObservedRound,
        done: list[tuple[CohortChunk, ChunkResult]],
        frozen: Frozen,
        downlink: Downlink,
    ) -> list[tuple[CohortChunk, ChunkResult]]:
        """The results of a round's chunks with the answers of malicious clients in place."""
        updates = jax.tree.map(lambda *rows: np.concatenate(rows), *observed.seen)
        answers = np.concatenate([_honest(chunk)[: chunk.valid] for chunk, _ in done])
        malicious = np.concatenate([_malicious(chunk)[: chunk.valid] for chunk, _ in done])
        if not (malicious & np.concatenate([c.sends[: c.valid] for c, _ in done])).any():
            return done
        round_key = done[0][0].round_key
        crafted = self.craft(round_key, updates, answers, malicious)
        return [
            (chunk, self._answered(chunk, result, inputs, frozen, downlink, crafted))
            for (chunk, result), inputs in zip(done, observed.inputs, strict=True)
        ]

    def _answered(
        self,
        chunk: CohortChunk,
        result: ChunkResult,
        inputs: dict[int, tuple],
        frozen: Frozen,
        downlink: Downlink,
        crafted: PyTree,
    ) -> ChunkResult:
        writable = jax.tree.map(np.array, (result.uplinks, result.client_states, result.ups))
        for row, (client_state, batches, number) in inputs.items():
            answer = self.answer(
                chunk.round_key,
                frozen,
                downlink,
                np.int32(chunk.clients[row]),
                client_state,
                batches,
                number,
                crafted,
            )
            uplink, state = jax.device_get(answer)
            length = lengths(jax.tree.map(lambda leaf: leaf[None], uplink))[0]
            for rows, new in zip(
                jax.tree.leaves(writable), jax.tree.leaves((uplink, state, length)), strict=True
            ):
                rows[row] = new
        uplinks, client_states, ups = writable
        return result._replace(uplinks=uplinks, client_states=client_states, ups=ups)


def crafting(
    algorithm: FederatedAlgorithm, attack: Attack, axis: ClientAxis, clients: int
) -> Crafting:
    """The programs of an omniscient attack on an algorithm of `with_attack`."""
    if axis.placement is not None:
        expected = "vmap(), scan() or chunked(size), as the attack reads all updates of a round"
        raise ValueError(message("simulate", "client_axis", expected, "sharded(...)"))

    def craft(
        round_key: Key[Array, ""],
        updates: PyTree,
        answers: Bool[Array, " cohort"],
        malicious: Bool[Array, " cohort"],
    ) -> PyTree:
        finite = finite_rows(updates, len(answers))
        craft = attack.of(Known(clients=clients)).craft
        assert craft is not None  # noqa: S101 - as it is omniscient
        key = jr.fold_in(round_key, ATTACK)
        return craft(key, updates, answers & finite & ~malicious, malicious)

    def answer(
        round_key: Key[Array, ""],
        frozen: Frozen,
        downlink: Downlink,
        client: Int[Array, ""],
        client_state: PyTree,
        batches: Any,
        number: Int[Array, ""],
        crafted: PyTree,
    ) -> tuple[PyTree, PyTree]:
        attacked = AttackedBatches(batches, jnp.array(True), number, crafted)
        key = jr.fold_in(round_key, client)
        uplink, state, _ = algorithm.client_update(key, frozen, downlink, client_state, attacked)
        return uplink, state

    return Crafting(jax.jit(craft), jax.jit(answer))


def _row(tree: PyTree, row: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[row], tree)


def _malicious(chunk: CohortChunk) -> Bool[np.ndarray, " clients"]:
    assert chunk.malicious is not None  # noqa: S101 - as there is an attack
    return chunk.malicious


def _honest(chunk: CohortChunk) -> Bool[np.ndarray, " clients"]:
    return chunk.sends & ~_malicious(chunk)


def _rows(chunk: CohortChunk) -> list[int]:
    """The rows of a chunk, without padding, of malicious clients that answer and do not fail."""
    failed = np.zeros(len(chunk.clients), bool)
    if chunk.plan is not None:
        failed = chunk.plan.failed[chunk.rows]
    rows: list[int] = np.flatnonzero(chunk.sends & _malicious(chunk) & ~failed).tolist()
    return rows
