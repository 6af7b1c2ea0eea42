"""What some methods take of a run's task and data, beside its flags."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from fedjax_compression.text import Call, parse
from jaxtyping import Integer, PyTree

from ..data import Corpus, Split
from ..tasks import Task, halves
from .config import RunConfig
from .methods import ALGORITHMS, ALL_AT_ONCE, EVERY_ROUND, FORWARDS, FROM_A_SPREAD, takes
from .workload import Workload


def taken(config: RunConfig, learnt: Workload, task: Task, split: Split) -> Mapping[str, Any]:
    """Of `public`, `logits`, `vocab` and `halves` what the method takes.

    Raises `ValueError` for another task than `language_model()` where it takes one of them, and
    where there is too little public text.
    """
    method = parse(config.algorithm).name
    if method not in ALGORITHMS or not takes(method, "vocab"):
        return {}
    if not isinstance(learnt.corpus, Corpus):
        raise ValueError(
            f"task: {method} is for language models, expected language_model(), got {config.task}."
        )
    model, decoder = task.model, learnt.decoder
    found: dict[str, Any] = {"vocab": decoder.vocab_size}
    if takes(method, "halves"):
        found["halves"] = partial(halves, task, decoder.num_hidden_layers)
    if takes(method, "public"):
        found["public"] = _public(config, split.unseen)
        found["logits"] = lambda params, frozen, tokens: model(params, frozen)(tokens)
    return found


def check_clients(config: RunConfig, population: int) -> None:
    """Raise `ValueError` where the method cannot run so many clients, or run them so."""
    method = parse(config.algorithm).name
    if config.clients < population and method in EVERY_ROUND:
        raise ValueError(
            f"algorithm: {method} needs every client in every round, expected clients to be "
            f"{population}, all there are, got {config.clients}."
        )
    if method in ALL_AT_ONCE and config.client_axis != "vmap()":
        raise ValueError(
            f"client_axis: {method} runs a round's clients at once, as they meet the server in "
            f"every step, expected vmap(), got {config.client_axis}."
        )


def check_adapter(config: RunConfig, params: PyTree) -> None:
    """Raise `ValueError` where the method can do nothing with what the adapter trains."""
    method = parse(config.algorithm).name
    if method in FORWARDS and "seeds" in _names(parse(config.adapter)):
        raise ValueError(
            f"algorithm: {method} differentiates forwards, and the sum of directions of "
            f"{config.adapter} only backwards, expected another adapter, or fed_mezo(), which "
            "differentiates nothing."
        )
    if ("seed", None) in parse(config.algorithm).kwargs and _starts_at_zero(params):
        raise ValueError(
            f"algorithm: {config.algorithm} trains within the factors of the start, expected none "
            f"of zeros, such as those of import_adapter or a seed, got {config.adapter}."
        )
    if method in FROM_A_SPREAD and _all_equal(params):
        raise ValueError(
            f"algorithm: {method} moves parameters in proportion to how they differ at first, "
            f"expected an adapter such as prompt_tuning(tokens=20), got {config.adapter}, of which "
            "all are equal."
        )


def _all_equal(params: PyTree) -> bool:
    ends = (end for leaf in jax.tree.leaves(params) for end in (leaf.min(), leaf.max()))
    return len({float(end) for end in ends}) == 1


def _starts_at_zero(params: PyTree) -> bool:
    return not all(bool(leaf.any()) for leaf in jax.tree.leaves(params))


def _names(call: Any) -> set[str]:
    """Of a call and of all that it is given."""
    if not isinstance(call, Call):
        return set()
    given = (*call.args, *(value for _, value in call.kwargs))
    return {call.name}.union(*map(_names, given))


def _public(config: RunConfig, unseen: Corpus) -> Integer[np.ndarray, "lots 1 batch seq"]:
    """Text of the clients set aside, on which no model is trained and whose scores are those of the
    server's: a batch of windows for each round, from the first on, and around.
    """
    batch, seq = config.batch, config.seq
    windows = len(unseen.tokens) // seq
    lots = min(config.rounds, windows // batch)
    if not lots:
        raise ValueError(
            f"algorithm: {config.algorithm} asks clients about the text of those set aside, one of "
            f"ten; expected batch={batch} windows of seq={seq} tokens there, got {windows}."
        )
    return unseen.tokens[: lots * batch * seq].reshape(lots, 1, batch, seq)
