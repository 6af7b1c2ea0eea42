"""How good a run's model is on held-out data, and the baselines beside it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..data import Corpus, bigram_nats
from ..evaluation import ByClient, baselines, by_client, by_own_model, distribution, token_bytes
from ..models import DecoderConfig
from ..simulation import StoreRows
from .prepare import Run
from .results import Row

LOGITS = 2**24
"""Most entries of logits in memory at once during an evaluation."""
OWN_ROWS = 16
"""Most rows that a client's own model evaluates at once."""


def quality(run: Run, params: PyTree, frozen: PyTree) -> Row:
    """Loss on held-out data of training clients (`heldout`) and on unseen clients (`unseen`).

    Nats per token and per byte; for pairs, nats per pair and the share of pairs that are
    `preferred`; for labelled texts, nats per text and `accuracy`. For streams of bytes also the
    loss of a byte bigram.
    """
    row: Row = {}
    shares = run.task_spec.shares(run.task)
    for name, corpus in (("heldout", run.split.heldout), ("unseen", run.split.unseen_clients)):
        if corpus.names:
            measured = partial(
                by_client,
                params=params,
                frozen=frozen,
                data=corpus,
                seq=run.config.seq,
                batch=_batch(run),
            )
            row |= _named(run, name, measured(run.task.nats), corpus)
            row |= _shares(name, {share: measured(of) for share, of in shares.items()})
            if run.workload.tokenizer is None:
                row[f"{name}_bigram_nats_per_byte"] = bigram_nats(run.split.train, corpus)
    return row


def personal_quality(run: Run, params: PyTree, frozen: PyTree, kept: StoreRows) -> Row:
    """Loss on each training client's held-out data under its personal model.

    Empty for methods without personal models. A client that was in no round uses the server's
    model; `personal_models` counts the clients that have one of their own.
    """
    if run.algorithm.personal is None or not run.split.heldout.names:
        return {}
    seen = run.split.heldout
    measured = partial(
        by_own_model,
        params_of=own_params(run, params, kept),
        frozen=frozen,
        data=seen,
        seq=run.config.seq,
        batch=min(OWN_ROWS, _batch(run)),
    )
    shares = run.task_spec.shares(run.task)
    took_part = {run.split.train.names[client] for client in kept.clients}
    return {
        "personal_models": len(took_part.intersection(seen.names)),
        **_named(run, "personal", measured(run.task.nats), seen),
        **_shares("personal", {share: measured(of) for share, of in shares.items()}),
    }


def own_params(run: Run, params: PyTree, kept: StoreRows) -> Callable[[str], PyTree]:
    """`(client) -> params` of a method with personal models.

    Args:
        run: The run.
        params: The server's parameters, which a client that was in no round uses.
        kept: The states of the clients that were in a round.

    """
    own: Any = run.algorithm.personal
    personal = jax.jit(own)
    place = {run.split.train.names[client]: row for row, client in enumerate(kept.clients)}

    def params_of(name: str) -> PyTree:
        if name not in place:
            return params
        return personal(params, jax.tree.map(lambda leaf: leaf[place[name]], kept.states))

    return params_of


def baseline_rows(run: Run) -> Row:
    """The same losses for three baselines, trained with the clients' optimizer.

    `untrained` is the start, `local` each client alone, `centralised` one model on all training
    data; see `evaluation.baselines`.
    """
    assert run.client_optimizer is not None  # noqa: S101 - not asked for otherwise
    found = baselines(
        run.task,
        run.split,
        run.batching,
        client_optimizer=run.client_optimizer,
        rounds=run.config.rounds,
        clients=run.config.clients,
        seed=run.config.seed,
    )
    row: Row = {}
    for name, baseline in found._asdict().items():
        row[name] = {"steps": baseline.steps}
        row[name] |= _named(run, "heldout", baseline.heldout, run.split.heldout)
        if baseline.unseen_clients is not None and baseline.unseen_clients.names:
            row[name] |= _named(run, "unseen", baseline.unseen_clients, run.split.unseen_clients)
    return row


def _named(run: Run, name: str, measured: ByClient, corpus: Any) -> Row:
    spread = distribution(measured, higher_is_better=False)
    per = f"{name}_nats_per_{run.unit}"
    row = {per: spread.weighted_mean, f"{per}_of_worst_tenth": spread.worst_tenth}
    if run.unit == "token" and isinstance(
        corpus, Corpus
    ):  # what models of other vocabularies can be compared by
        size = _sizes(run)[corpus.tokens[corpus.is_target()]].sum()
        row[f"{name}_nats_per_byte"] = float(measured.totals.sum() / size)
    return row


def _shares(name: str, measured: Mapping[str, ByClient]) -> Row:
    return {
        f"{name}_{share}": distribution(by, higher_is_better=True).weighted_mean
        for share, by in measured.items()
    }


def _sizes(run: Run) -> np.ndarray:
    """Bytes of each token of the vocabulary."""
    return token_bytes(run.workload.tokenizer, vocab_size=run.workload.config.vocab_size)


def _batch(run: Run) -> int:
    sizes = run.workload.config
    outputs = sizes.vocab_size if isinstance(sizes, DecoderConfig) else sizes.intermediate_size
    return min(64, max(1, LOGITS // (run.task_spec.texts * run.config.seq * outputs)))
