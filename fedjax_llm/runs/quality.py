"""How good a run's model is on text that it did not learn from, and what it stands beside."""

from typing import Any

import numpy as np
from jaxtyping import PyTree

from ..data import Corpus, bigram_nats
from ..evaluation import ByClient, baselines, by_client, distribution, token_bytes
from .prepare import Run

Row = dict[str, Any]
LOGITS = 2**24
"""Entries of logits that an evaluation holds at a time, at most."""


def quality(run: Run, params: PyTree, frozen: PyTree) -> Row:
    """Nats per token and per byte on the held-out text of clients that took part (`heldout`) and on
    that of clients that did not (`unseen`), and for streams of bytes those of a byte bigram.
    """
    row: Row = {}
    for name, corpus in (("heldout", run.split.seen), ("unseen", run.split.unseen)):
        if corpus.names:
            measured = by_client(
                run.task.nats,
                params,
                frozen,
                corpus,
                seq=run.config.seq,
                batch=_batch(run),
            )
            row |= _named(name, measured, corpus, _sizes(run))
            if run.workload.tokenizer is None:
                row[f"{name}_bigram_nats_per_byte"] = bigram_nats(run.split.train, corpus)
    return row


def beside(run: Run) -> Row:
    """The same of the start (`untrained`), of each client alone (`local`), and of one model on all
    training text (`centralised`), by the clients' optimizer, as `baselines` says.
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
        row[name] |= _named("heldout", baseline.seen, run.split.seen, _sizes(run))
        if baseline.unseen is not None and baseline.unseen.names:
            row[name] |= _named("unseen", baseline.unseen, run.split.unseen, _sizes(run))
    return row


def _named(name: str, measured: ByClient, corpus: Corpus, sizes: np.ndarray) -> Row:
    size = sizes[corpus.tokens[corpus.is_target()]].sum()
    spread = distribution(measured, higher_is_better=False)
    return {
        f"{name}_nats_per_token": spread.weighted_mean,
        f"{name}_nats_per_byte": float(measured.totals.sum() / size),
        f"{name}_nats_per_token_of_worst_tenth": spread.worst_tenth,
    }


def _sizes(run: Run) -> np.ndarray:
    """Bytes of each token."""
    vocab, tokenizer = run.workload.decoder.vocab_size, run.workload.tokenizer
    return np.ones(vocab, int) if tokenizer is None else token_bytes(tokenizer, vocab_size=vocab)


def _batch(run: Run) -> int:
    return min(64, max(1, LOGITS // (run.config.seq * run.workload.decoder.vocab_size)))
