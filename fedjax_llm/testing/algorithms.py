"""The contract of algorithms as a check that anyone can call on their own."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from fedjax_compression.checks import check_kind
from fedjax_compression.testing import equal, hold
from jaxtyping import PyTree

from ..algorithm import FederatedAlgorithm
from ..client_training import Frozen, Params
from ..simulation import chunked, round_program, scan, vmap
from ..simulation.keys import SERVER
from .promises import close, finite

AXES = {"vmap": vmap(), "scan": scan(), "chunked": chunked(3)}
ROUNDS = 4
"""Rounds that a trial plays."""


def check_algorithm(
    algorithm: FederatedAlgorithm, params: Params, frozen: Frozen, batches: PyTree
) -> None:
    """Check every promise of the algorithm contract over four rounds of one cohort.

    Args:
        algorithm: The algorithm to check.
        params: Trainable parameters that it can start from.
        frozen: Frozen parameters.
        batches: Batches of at least four clients: leaves `[clients, steps, batch, ...]`, with a
            field `mask`. A floating-point leaf beside the mask is needed to make a client fail.

    Raises:
        ContractError: Naming the first promise that does not hold, what was expected, what was
            got, and how to mend it.
        TypeError: For anything but a `FederatedAlgorithm`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batching, cohort_batches, from_arrays, masked_mean
        >>> data = from_arrays({f"client {i}": {"x": jnp.ones((2, 3)) * i} for i in range(4)})
        >>> loss = masked_mean(lambda params, frozen, rows: (rows["x"] @ params["w"] - 1) ** 2)
        >>> params = {"w": jnp.zeros(3)}
        >>> keys = np.arange(8, dtype=np.uint32).reshape(4, 2)
        >>> batches = cohort_batches(data, Batching(batch=1, steps=2), range(4), keys)
        >>> mean = fed_avg(loss, params, client_optimizer=optax.sgd(0.01))
        >>> check_algorithm(mean, params, (), batches)

    """
    check_kind(
        algorithm,
        FederatedAlgorithm,
        who="check_algorithm",
        name="algorithm",
        expected="a FederatedAlgorithm",
        remedy="call the factory first" if callable(algorithm) else "",
    )
    trial = AlgorithmTrial(algorithm, params, frozen, batches)
    for promise in ALGORITHM_PROMISES:
        promise(trial)


class AlgorithmTrial:
    """One algorithm on one cohort, whose programs are compiled once for all promises.

    Args:
        algorithm: The algorithm.
        params: Its first parameters.
        frozen: Frozen parameters.
        batches: Batches of a cohort: leaves `[clients, steps, batch, ...]`.
        weights: Weights of the clients. Default: 1, 2, 3, ...
        cohort: `(round) -> batches` of other rounds. Default: `batches` dealt to other clients.
        axes: Client axes, out of `AXES`, that are compared with `vmap`.

    """

    def __init__(
        self,
        algorithm: FederatedAlgorithm,
        params: Params,
        frozen: Frozen,
        batches: PyTree,
        *,
        weights: Any = None,
        cohort: Callable[[int], PyTree] | None = None,
        axes: tuple[str, ...] = ("scan", "chunked"),
    ) -> None:
        self.params, self.frozen, self.batches = params, frozen, batches
        self.clients = len(jax.tree.leaves(batches)[0])
        self.weights = jnp.arange(1.0, self.clients + 1) if weights is None else weights
        self.cohort = cohort or self._dealt
        self.axes, self.traces = axes, 0
        self.algorithm = algorithm
        counted = algorithm._replace(client_update=self._counted(algorithm.client_update))
        self.programs = {name: round_program(counted, axis) for name, axis in AXES.items()}

    def start(self) -> tuple[PyTree, PyTree]:
        """The first server state, and the first client states stacked."""
        own = self.algorithm.client_init(self.params)
        rows = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.clients), own)
        return self.algorithm.init(jr.key(7), self.params), rows

    def play(
        self,
        state: PyTree,
        client_states: PyTree,
        rounds: range | list[int],
        *,
        axis: str = "vmap",
        batches: PyTree = None,
        weights: Any = None,
    ) -> tuple[PyTree, PyTree, Any]:
        """States after some rounds, and what the last one left: downlink, uplinks, infos."""
        watched = None
        for number in rounds:
            here = self.cohort(number) if batches is None else batches
            state, client_states, watched = self.programs[axis](
                jr.fold_in(jr.key(3), number),
                self.frozen,
                state,
                jnp.arange(self.clients),
                self.weights if weights is None else weights,
                client_states,
                here,
            )
        return state, client_states, watched

    @cached_property
    def played(self) -> tuple[PyTree, PyTree, Any, list[int]]:
        """`play` of the first rounds under `vmap`, and the traces made after each."""
        state, client_states = self.start()
        traces, watched = [], None
        for number in range(ROUNDS):
            state, client_states, watched = self.play(state, client_states, [number])
            traces.append(self.traces)
        return state, client_states, watched, traces

    def broken(self, clients: Any) -> PyTree:
        """The batches of round 9 with NaNs in the floating-point data of some clients."""

        def fail(path: Any, leaf: Any) -> Any:
            if not jnp.issubdtype(leaf.dtype, jnp.floating) or "mask" in jax.tree_util.keystr(path):
                return leaf
            return jnp.asarray(leaf).at[clients].set(jnp.nan)

        batches = jax.tree_util.tree_map_with_path(fail, self.cohort(9))
        if finite(batches):
            raise ValueError(
                "check_algorithm: batches: expected a floating-point leaf beside the mask, got "
                "none; add one, so that a client can fail."
            )
        return batches

    def _dealt(self, number: int) -> PyTree:
        return jax.tree.map(lambda leaf: jnp.roll(jnp.asarray(leaf), number, axis=0), self.batches)

    def _counted(self, update: Callable) -> Callable:
        def counted(*args: Any) -> Any:
            self.traces += 1
            return update(*args)

        return counted


def rounds_move_the_parameters(trial: AlgorithmTrial) -> None:
    """Rounds change the states and keep them finite."""
    state, client_states, _, _ = trial.played
    first = trial.start()
    hold(finite((state, client_states)), "rounds", "finite states", "others", "check the loss")
    hold(
        not equal((state.params, client_states), (first[0].params, first[1])),
        "rounds",
        "parameters or client states that move",
        "those of the start",
        "return the new states",
    )


def client_axes_agree(trial: AlgorithmTrial) -> None:
    """`scan` and `chunked(3)` compute the round that `vmap` computes, to rounding."""
    for axis in trial.axes:
        state, client_states, _ = trial.play(*trial.start(), range(ROUNDS), axis=axis)
        hold(
            close(state.params, trial.played[0].params, 2e-5)
            and close(client_states, trial.played[1], 2e-4),
            "client axes",
            f"{axis} to compute the round that vmap computes",
            "other states",
            "fold clients in with a sum or a row for each, whatever the size of a chunk",
        )


def states_are_arrays(trial: AlgorithmTrial) -> None:
    """A run continues from the arrays of its states to the same bits."""
    kept = trial.play(*trial.start(), range(1))[:2]
    first = trial.start()
    uncounted = trial.algorithm.uncounted or (lambda old, new: old)
    for states in (kept, (kept[0], uncounted(first[1], kept[1]))):
        hold(
            jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, states),
            "states",
            "states of the shapes that init made",
            jax.tree.map(jnp.shape, states),
            "keep the structure and shapes of both states from round to round, also in uncounted",
        )
    leaves = jax.device_get(jax.tree.leaves(kept))
    again: Any = jax.tree.unflatten(jax.tree.structure(first), leaves)
    hold(
        equal(trial.play(again[0], again[1], range(1, ROUNDS))[:2], trial.played[:2]),
        "states",
        "the same bits after a copy of the states to the host and back",
        "others",
        "keep everything that lasts in the states, nothing in a closure",
    )


def rounds_trace_once(trial: AlgorithmTrial) -> None:
    """Later rounds trace nothing again."""
    once, *later = trial.played[3]
    hold(
        once > 0 and set(later) == {once},
        "tracing",
        "no trace after the first round",
        trial.played[3],
        "keep dtypes and weak types of both states from round to round",
    )


def failed_clients_are_left_out(trial: AlgorithmTrial) -> None:
    """A client with NaNs counts as failed, and the others as if it had weight zero."""
    state, client_states, _ = trial.play(*trial.start(), range(1))
    got, after, (_, _, info, server) = trial.play(
        state, client_states, [5], batches=trial.broken(1)
    )
    without = jnp.asarray(trial.weights).at[1].set(0)
    expected = trial.play(state, client_states, [5], batches=trial.cohort(9), weights=without)[0]
    counts = (int(server.accepted), int(server.failed))
    hold(
        counts == (trial.clients - 1, 1) and bool(np.isnan(info.loss[1])),
        "failures",
        f"(accepted, failed) of {(trial.clients - 1, 1)} and a NaN loss",
        counts,
        "send NaNs where has_failed(info, update), and gather with gather_updates",
    )
    hold(
        close(got, expected, 1e-6) and finite(after),
        "failures",
        "the server state without that client, and finite client states",
        "others",
        "keep a failed client's old state: choose(failed, old, new)",
    )


def a_round_of_failures_changes_no_parameters(trial: AlgorithmTrial) -> None:
    """Where every client fails, the server keeps its parameters."""
    state, client_states, _ = trial.play(*trial.start(), range(1))
    got, _, (_, _, _, server) = trial.play(
        state, client_states, [5], batches=trial.broken(slice(None))
    )
    counts = (int(server.accepted), int(server.failed))
    key = jr.split(jr.fold_in(jr.fold_in(jr.key(3), 5), SERVER))[0]
    sent = jax.jit(trial.algorithm.broadcast)(key, state)[1]
    hold(
        counts == (0, trial.clients) and equal(got.params, state.params) and close(got, sent, 1e-6),
        "failures",
        f"(accepted, failed) of {(0, trial.clients)} and the state that broadcast left",
        counts,
        "end server_update with server_result",
    )


def a_client_that_missed_a_message_takes_part_again(trial: AlgorithmTrial) -> None:
    """A client that was not in a round counts in the next, unless the method needs it in each."""
    if trial.algorithm.every_round or trial.algorithm.every_message:
        return
    state, before, _ = trial.play(*trial.start(), range(1))
    without = jnp.asarray(trial.weights).at[0].set(0)
    state, after, _ = trial.play(state, before, [1], weights=without)
    rows = jax.tree.map(lambda old, new: new.at[0].set(old[0]), before, after)
    server = trial.play(state, rows, [2])[2][3]
    counts = (int(server.accepted), int(server.failed))
    hold(
        counts == (trial.clients, 0),
        "a missed message",
        f"(accepted, failed) of {(trial.clients, 0)} in the next round",
        counts,
        "declare every_message (a Channel has it), or send what does not build on earlier messages",
    )


def messages_have_the_bytes_that_are_made(trial: AlgorithmTrial) -> None:
    """Downlink and uplinks become messages, and read back to the same messages."""
    downlink, uplinks, _, _ = jax.device_get(trial.played[2])
    sent = [jax.tree.map(lambda leaf, row=row: leaf[row], uplinks) for row in range(trial.clients)]
    for payload in (downlink, *sent):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), payload)
        data = wire.dumps(payload)
        hold(
            wire.dumps(wire.loads(data, like)) == data,
            "messages",
            "a message that reads back",
            "another",
            "keep only numeric and boolean arrays, Symbols and Prefix in a payload",
        )


def integer_sums_give_the_partial_of_the_fold(trial: AlgorithmTrial) -> None:
    """`sums.add` of the sum of integers gives the partial that `gather.add` gives."""
    sums, gather = trial.algorithm.sums, trial.algorithm.gather
    if sums is None:
        return
    state, uplinks = trial.played[0], trial.played[2][1]
    empty = gather.empty(state, trial.clients)
    integers = jax.vmap(sums.integers)(uplinks)
    limit = 2 ** (sums.bits - 1)
    hold(
        integers.shape == (trial.clients, sums.entries)
        and int(integers.min()) >= -limit
        and int(integers.max()) < limit,
        "integer sums",
        f"{sums.entries} integers of {sums.bits} bits of each client",
        f"{integers.shape[1:]} from {int(integers.min())} to {int(integers.max())}",
        "take entries and bits from the codec's Summable",
    )
    folded = gather.add(state, empty, uplinks, jnp.ones(trial.clients))
    summed = sums.add(empty, integers.sum(axis=0), jnp.int32(trial.clients))
    hold(
        equal(folded, summed),
        "integer sums",
        "the partial that gather.add gives",
        "another",
        "count the clients in add as gather.add counts them",
    )


def other_structures_are_refused(trial: AlgorithmTrial) -> None:
    """`init` raises `ValueError` for parameters of another structure."""
    try:
        trial.algorithm.init(jr.key(0), {"other": jnp.zeros(1)})
    except ValueError:
        return
    hold(False, "structure", "a ValueError from init", "none", "call check_structure in init")


ALGORITHM_PROMISES: tuple[Callable[[AlgorithmTrial], None], ...] = (
    rounds_move_the_parameters,
    client_axes_agree,
    states_are_arrays,
    rounds_trace_once,
    failed_clients_are_left_out,
    a_round_of_failures_changes_no_parameters,
    a_client_that_missed_a_message_takes_part_again,
    messages_have_the_bytes_that_are_made,
    integer_sums_give_the_partial_of_the_fold,
    other_structures_are_refused,
)
"""Every promise of an algorithm, each a function that raises `ContractError`."""
