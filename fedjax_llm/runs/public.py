"""Text that all know, for methods whose clients tell each other what they expect of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer

from ..data import Corpus, Split
from ..tasks import Task
from .config import RunConfig
from .workload import Workload


def public_text(config: RunConfig, learnt: Workload, task: Task, split: Split) -> Mapping[str, Any]:
    """What such a method takes: `public`, `logits` and `vocab`.

    The text is that of the clients set aside, of which no model is trained and whose scores are the
    server's: a batch of windows for each round, from the first on, and around.
    Raises `ValueError` where it is too little, and for data that are not texts.
    """
    model, vocab = task.model, learnt.decoder.vocab_size
    return {
        "public": _lots(config, split.unseen),
        "logits": lambda params, frozen, tokens: model(params, frozen)(tokens),
        "vocab": vocab,
    }


def _lots(config: RunConfig, unseen: Any) -> Integer[np.ndarray, "lots 1 batch seq"]:
    if not isinstance(unseen, Corpus):
        raise ValueError(
            f"task: {config.algorithm} asks clients about texts, expected language_model(), "
            f"got {config.task}."
        )
    batch, seq = config.batch, config.seq
    windows = len(unseen.tokens) // seq
    lots = min(config.rounds, windows // batch)
    if not lots:
        raise ValueError(
            f"algorithm: {config.algorithm} asks clients about the text of those set aside, one of "
            f"ten; expected batch={batch} windows of seq={seq} tokens there, got {windows}."
        )
    return unseen.tokens[: lots * batch * seq].reshape(lots, 1, batch, seq)
