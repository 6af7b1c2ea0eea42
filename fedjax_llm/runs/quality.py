"""How good a run's model is on held-out data, and the baselines beside it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..data import Corpus, bigram_nats
from ..evaluation import ByClient, by_client, by_own_model, distribution, token_bytes
from ..evaluation.baselines import baselines_in_turn
from ..evaluation.by_client import GoOn
from ..models import DecoderConfig
from ..simulation import StoreRows
from ..tasks import Measure
from .prepare import Run
from .results import Row

LOGITS = 2**24
"""Most entries of logits in memory at once during an evaluation."""
OWN_ROWS = 16
"""Most rows that a client's own model evaluates at once."""


Watch = Callable[[str, int, int], bool]
"""`(what, done, of) -> whether to go on`, such as "heldout rows", 12 of 256."""


def unwatched(what: str, done: int, of: int) -> bool:
    """Go on, whatever is done."""
    return True


class Watched:
    """An evaluation whose progress is told, and that can be ended.

    Args:
        watch: Told of the progress; says whether to go on.

    Attributes:
        known: What was measured so far, as fields of a row.
        ended: Where it was ended: what, done and of; None where it was not.

    """

    def __init__(self, watch: Watch = unwatched) -> None:
        self._watch = watch
        self._at: Row = {"what": "", "done": 0, "of": 0}
        self.known: Row = {}
        self.ended: Row | None = None

    def go_on(self, what: str, done: int, of: int) -> bool:
        """Tell the progress; return whether to go on."""
        if self.ended is None:
            self._at = {"what": what, "done": done, "of": of}
            if not self._watch(what, done, of) and done < of:
                self.ended = self._at
        return self.ended is None

    def telling(self, what: str) -> GoOn:
        """`go_on` of one measure."""
        return partial(self.go_on, what)

    def begin(self, known: Row) -> Row:
        """Take what is known before an evaluation, instead of what was; return it."""
        self.known = dict(known)
        return known

    def add(self, found: Row) -> Row:
        """Take what was measured, and return it."""
        self.known |= found
        return found

    def so_far(self) -> Row:
        """What was measured, of an evaluation that ends here."""
        return {**self.known, "stopped": self.ended or self._at}

    def of_round(self) -> Row:
        """The same, of a round's evaluation: in the field `stopped`, apart from what is whole."""
        return {"stopped": {**(self.ended or self._at), "measured": dict(self.known)}}


def quality(run: Run, params: PyTree, frozen: PyTree, watched: Watched | None = None) -> Row:
    """Loss on held-out data of training clients (`heldout`) and on unseen clients (`unseen`).

    Nats per token and per byte; for pairs, nats per pair and the share of pairs that are
    `preferred`; for labelled texts, nats per text and `accuracy`. Under an attack with a backdoor
    the share of windows in which it opens (`heldout_backdoor`, see `backdoor_success`). For streams
    of bytes also the loss of a byte bigram. What has nothing to measure, or was not reached before
    the evaluation was ended, has no field.
    """
    row: Row = {}
    watched = watched or Watched()
    shares = _measures(run)
    for name, corpus in run.evaluated._asdict().items():
        if corpus.names:
            measured = partial(
                by_client,
                params=params,
                frozen=frozen,
                data=corpus,
                seq=run.config.seq,
                batch=_batch(run),
                go_on=watched.telling(f"{name} rows"),
            )
            row |= watched.add(_named(run, name, measured(run.task.nats), corpus))
            row |= watched.add(_shares(name, {s: measured(of) for s, of in shares.items()}))
            if run.workload.tokenizer is None:
                row[f"{name}_bigram_nats_per_byte"] = bigram_nats(run.split.train, corpus)
    return row


def evaluated_sizes(run: Run) -> Row:
    """How many clients and rows the evaluations read, and of how many; and who is unseen."""
    whole = {"heldout": run.split.heldout, "unseen": run.split.unseen_clients}
    row: Row = {"unseen_clients": list(run.split.unseen_clients.names)}
    for name, part in run.evaluated._asdict().items():
        rows, of = (
            int(data.rows(range(len(data.names)), seq=run.config.seq).counts.sum())
            for data in (part, whole[name])
        )
        clients, clients_of = (len(data.names) for data in (part, whole[name]))
        row[f"{name}_evaluated"] = {
            "clients": clients,
            "clients_of": clients_of,
            "rows": rows,
            "rows_of": of,
        }
    return row


def personal_quality(
    run: Run, params: PyTree, frozen: PyTree, kept: StoreRows, watched: Watched
) -> Row:
    """Loss on each training client's held-out data under its personal model.

    Empty for methods without personal models. A client that was in no round uses the server's
    model; `personal_models` counts the clients that have one of their own.
    """
    seen = run.evaluated.heldout
    if run.algorithm.personal is None or not seen.names:
        return {}
    measured = partial(
        by_own_model,
        params_of=own_params(run, params, kept),
        frozen=frozen,
        data=seen,
        seq=run.config.seq,
        batch=min(OWN_ROWS, _batch(run)),
        go_on=watched.telling("personal rows"),
    )
    shares = _measures(run)
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


def baseline_rows(run: Run, watched: Watched | None = None) -> Row:
    """The same losses for three baselines, trained with the clients' optimizer.

    `untrained` is the start, `local` each client alone, `centralised` one model on all training
    data; see `evaluation.baselines`. Those that were not finished before the evaluation was ended
    are left out.
    """
    assert run.client_optimizer is not None  # noqa: S101 - not asked for otherwise
    watched, (heldout, unseen) = watched or Watched(), run.evaluated
    found = baselines_in_turn(
        run.task,
        run.split._replace(heldout=heldout, unseen_clients=unseen),
        run.batching,
        client_optimizer=run.client_optimizer,
        rounds=run.config.rounds,
        clients=run.config.clients,
        seed=run.config.seed,
        go_on=watched.go_on,
    )
    row: Row = {}
    for name, baseline in found:
        row[name] = {"steps": baseline.steps, **_named(run, "heldout", baseline.heldout, heldout)}
        if baseline.unseen_clients is not None:
            row[name] |= _named(run, "unseen", baseline.unseen_clients, unseen)
    return row


def _named(run: Run, name: str, measured: ByClient, corpus: Any) -> Row:
    if not (measured.counts > 0).any():
        return {}
    spread = distribution(measured, higher_is_better=False)
    per = f"{name}_nats_per_{run.unit}"
    row = {per: spread.weighted_mean, f"{per}_of_worst_tenth": spread.worst_tenth}
    whole = isinstance(corpus, Corpus) and measured.counts.sum() == corpus.targets().sum()
    if run.unit == "token" and whole:  # what models of other vocabularies can be compared by
        size = _sizes(run)[corpus.tokens[corpus.is_target()]].sum()
        row[f"{name}_nats_per_byte"] = float(measured.totals.sum() / size)
    return row


def _shares(name: str, measured: Mapping[str, ByClient]) -> Row:
    return {
        f"{name}_{share}": distribution(by, higher_is_better=True).weighted_mean
        for share, by in measured.items()
        if (by.counts > 0).any()
    }


def _measures(run: Run) -> dict[str, Measure]:
    """The measures of which a row has the mean over all that counts, by name."""
    of_task = dict(run.task_spec.shares(run.task))
    return of_task | ({"backdoor": run.backdoor} if run.backdoor else {})


def _sizes(run: Run) -> np.ndarray:
    """Bytes of each token of the vocabulary."""
    return token_bytes(run.workload.tokenizer, vocab_size=run.workload.config.vocab_size)


def _batch(run: Run) -> int:
    sizes = run.workload.config
    outputs = sizes.vocab_size if isinstance(sizes, DecoderConfig) else sizes.intermediate_size
    return min(64, max(1, LOGITS // (run.task_spec.texts * run.config.seq * outputs)))
