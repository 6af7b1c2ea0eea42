"""Nats per byte of text, which tokenizers do not change."""

import json
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from ..client_training import Frozen, Params
from ..data import Batch
from ..tasks import Measure, Scores

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def per_byte(nats: Measure, sizes: Int32[np.ndarray, " vocab"]) -> Measure:
    """The nats of a language model over the bytes of the text behind its counted targets.

    `sizes` are the bytes of each token, as `token_bytes` gives them; all 1 where tokens are bytes.
    A special token that is predicted, such as an end of sequence, has nats and no bytes.
    """
    table = jnp.asarray(sizes)

    def measure(params: Params, frozen: Frozen, batch: Batch) -> Scores:
        targets, mask = (jnp.asarray(leaf, jnp.int32) for leaf in (batch.targets, batch.mask))
        size = (table[targets] * mask).sum(axis=-1)
        return Scores(nats(params, frozen, batch).totals, jnp.float32(size))

    return measure


def token_bytes(tokenizer: Any, *, vocab_size: int | None = None) -> Int32[np.ndarray, " vocab"]:
    """Bytes of UTF-8 that each token stands for; 0 for special tokens and for none.

    For byte-level tokenizers (GPT-2, Llama 3, Qwen, SmolLM2) the sum over a text's tokens is the
    text's size, exactly; for those of SentencePiece's kind (Llama 2, Gemma) the space that they put
    before a text counts too. `vocab_size` is the model's, the tokenizer's unless given.
    Raises `ValueError` for a tokenizer of another kind, and for one with more tokens than the
    vocabulary has.
    """
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    if vocab_size < len(tokenizer):
        raise ValueError(
            f"token_bytes: expected a vocabulary of at least {len(tokenizer)}, the tokenizer's "
            f"size, got {vocab_size}."
        )
    kinds = _decoders(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    if not kinds & {"ByteLevel", "Metaspace", "ByteFallback"}:
        raise ValueError(
            "token_bytes: expected a tokenizer that decodes by ByteLevel, Metaspace or "
            f"ByteFallback, got {', '.join(sorted(kinds)) or 'no decoder'}."
        )
    sizes = np.zeros(vocab_size, np.int32)
    added = tokenizer.added_tokens_decoder
    for token, number in tokenizer.get_vocab().items():
        if number in added:
            sizes[number] = 0 if added[number].special else len(added[number].content.encode())
        elif "ByteLevel" in kinds:
            sizes[number] = len(token)  # a character stands for each byte
        else:
            sizes[number] = 1 if _BYTE.fullmatch(token) else len(token.replace("▁", " ").encode())
    sizes[tokenizer.all_special_ids] = 0
    return sizes


def _decoders(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*map(_decoders, decoder.get("decoders", [])))
