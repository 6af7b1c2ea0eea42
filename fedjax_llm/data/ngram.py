"""A byte-bigram model: the baseline that any language model must beat."""

import numpy as np

from ..checks import check_real
from .checks import check_client_data
from .tokenisation.corpus import Corpus


def bigram_nats(train: Corpus, heldout: Corpus, *, smoothing: float = 0.1) -> float:
    """Compute the loss of a byte-bigram model that is counted on `train`, on `heldout`.

    P(next | last) = (count(last, next) + smoothing) / (count(last) + 256 smoothing). The targets
    are those of a decoder: every byte of a client except its first.

    Args:
        train: Streams of bytes to count, such as those of `byte_corpus`.
        heldout: Streams of bytes to measure the loss on.
        smoothing: Count that is added to each pair of bytes, above 0. Default 0.1.

    Returns:
        Mean loss over the targets of `heldout`, in nats per byte.

    Raises:
        TypeError: For an argument that is not a `Corpus`.
        ValueError: For a corpus that is not of byte streams whose targets all count, and for
            `smoothing` that is not above 0.

    Example:
        >>> from fedjax_llm.data import bigram_nats, byte_corpus
        >>> corpus = byte_corpus({"ann": "abababababababababab"})
        >>> round(bigram_nats(corpus, corpus), 3)
        1.296

    """
    for name, corpus in (("train", train), ("heldout", heldout)):
        check_client_data(corpus, who="bigram_nats", name=name, kind=Corpus)
        if corpus.vocab_size > 256 or corpus.documents is not None or corpus.counted is not None:
            raise ValueError(
                f"bigram_nats: {name}: expected streams of bytes, all of them counted, got a "
                f"vocabulary of {corpus.vocab_size} or documents; byte_corpus makes such streams."
            )
    check_real(smoothing, who="bigram_nats", name="smoothing", above=0)
    counts = _pairs(train) + smoothing
    logp = np.log(counts / counts.sum(axis=1, keepdims=True))
    targets = _pairs(heldout)
    return float(-(targets * logp).sum() / targets.sum())


def _pairs(corpus: Corpus) -> np.ndarray:
    """Counts of each pair of consecutive bytes of one client."""
    pair = corpus.tokens[:-1].astype(np.int64) * 256 + corpus.tokens[1:]
    inside = np.ones(len(pair), bool)
    inside[corpus.offsets[1:-1] - 1] = False
    return np.bincount(pair[inside], minlength=256 * 256).reshape(256, 256).astype(float)
