"""The baseline that any language model must beat."""

import numpy as np

from .tokenisation.corpus import Corpus


def bigram_nats(train: Corpus, heldout: Corpus, *, smoothing: float = 0.1) -> float:
    """Nats per byte of a byte-bigram model, counted on `train`, over the targets of `heldout`.

    P(next | last) = (count(last, next) + smoothing) / (count(last) + 256 smoothing). The targets
    are those that a decoder is asked for: every byte of a client but the first.
    Raises `ValueError` for a corpus that is not of streams of bytes.
    """
    for corpus in (train, heldout):
        if corpus.vocab_size > 256 or corpus.documents is not None or corpus.counted is not None:
            raise ValueError(
                "bigram_nats: expected streams of bytes, all of them counted, got a vocabulary of "
                f"{corpus.vocab_size} or documents; its table has a row for every token."
            )
    counts = _pairs(train) + smoothing
    logp = np.log(counts / counts.sum(axis=1, keepdims=True))
    asked = _pairs(heldout)
    return float(-(asked * logp).sum() / asked.sum())


def _pairs(corpus: Corpus) -> np.ndarray:
    pair = corpus.tokens[:-1].astype(np.int64) * 256 + corpus.tokens[1:]
    inside = np.ones(len(pair), bool)
    inside[corpus.offsets[1:-1] - 1] = False
    return np.bincount(pair[inside], minlength=256 * 256).reshape(256, 256).astype(float)
