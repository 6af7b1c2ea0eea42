"""Learned vectors before the text (Lester et al. 2021, arXiv:2104.08691)."""

import jax.random as jr
from jaxtyping import Array, Key

from ..models import Decoder
from .contract import Adapter, Added
from .prefix_tuning import check_decoder, check_tokens


def prompt_tuning(*, tokens: int) -> Adapter:
    """Train so many embeddings that stand before each row of tokens.

    They start as embeddings of tokens drawn at random (the paper's "sampled vocabulary"). They
    take the first positions, all segments of a packed row see them, and no logits are given for
    them. Attention costs as for rows that are longer by `tokens`; sliding layers lose sight of them
    as of other tokens. The model's output changes at once.
    Raises `ValueError` for fewer than one token, and for a model that is no decoder.
    """
    check_tokens(tokens, who="prompt_tuning")

    def attach(key: Key[Array, ""], model: Decoder) -> None:
        check_decoder(model, who="prompt_tuning")
        table = model.embedding[...]
        model.prompt = Added(table[jr.randint(key, (tokens,), 0, len(table))])

    return Adapter(attach, Added)
