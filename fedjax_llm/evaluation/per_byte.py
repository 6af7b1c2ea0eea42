"""Nats per byte of text, which is comparable across tokenizers."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression.checks import check_function, check_kind
from jaxtyping import Int32

from ..client_training import Frozen, Params
from ..data import Batch
from ..tasks import Measure, Scores

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def per_byte(nats: Measure, sizes: Int32[np.ndarray, " vocab"]) -> Measure:
    """Measure a language model's nats per byte of the text behind its counted targets.

    A special token that is predicted, such as an end of sequence, adds nats and no bytes.

    Args:
        nats: The measure of a language model, `task.nats`.
        sizes: Bytes of each token, shape `[vocab]`, from `token_bytes`; all 1 where tokens are
            bytes.

    Returns:
        A measure on a `Batch`: totals are nats, counts are bytes.

    Raises:
        TypeError: If `nats` cannot be called, or `sizes` is not an array.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr, numpy as np
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.evaluation import per_byte
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0))
        >>> sizes = np.full(256, 3, np.int32)  # each token stands for three bytes
        >>> tokens = np.zeros((1, 4), int)
        >>> batch = Batch(tokens, tokens, np.ones((1, 4), bool))
        >>> per_byte(task.nats, sizes)(task.params, task.frozen, batch).counts.tolist()
        [12.0]

    """
    signature = "(params, frozen, batch) -> scores"
    check_function(nats, who="per_byte", name="nats", signature=signature)
    remedy = "token_bytes(tokenizer) makes one"
    kind = (np.ndarray, jax.Array)
    check_kind(sizes, kind, who="per_byte", name="sizes", expected="an array", remedy=remedy)
    table = jnp.asarray(sizes)

    def measure(params: Params, frozen: Frozen, batch: Batch) -> Scores:
        targets, mask = (jnp.asarray(leaf, jnp.int32) for leaf in (batch.targets, batch.mask))
        size = (table[targets] * mask).sum(axis=-1)
        return Scores(nats(params, frozen, batch).totals, jnp.float32(size))

    return measure


def token_bytes(tokenizer: Any, *, vocab_size: int | None = None) -> Int32[np.ndarray, " vocab"]:
    """Compute how many bytes of UTF-8 each token stands for.

    For byte-level tokenizers (GPT-2, Llama 3, Qwen, SmolLM2) the sum over a text's tokens is
    exactly the size of the text. For tokenizers of SentencePiece's kind (Llama 2, Gemma) the space
    that they put before a text counts too.

    Args:
        tokenizer: A `PreTrainedTokenizerFast`.
        vocab_size: The model's vocabulary size; default the tokenizer's.

    Returns:
        Bytes of each token, shape `[vocab_size]`; 0 for special tokens and for numbers without a
        token.

    Raises:
        TypeError: If `tokenizer` is not a fast tokenizer.
        ValueError: For a tokenizer that decodes in another way, and for one with more tokens than
            `vocab_size`.

    Example:
        >>> from tokenizers import Tokenizer, decoders
        >>> from tokenizers.models import BPE
        >>> from transformers import PreTrainedTokenizerFast
        >>> from fedjax_llm.evaluation import token_bytes
        >>> bpe = Tokenizer(BPE({"a": 0, "Ã": 1, "©": 2, "Ã©": 3}, [("Ã", "©")]))  # Ã© spells é
        >>> bpe.decoder = decoders.ByteLevel()
        >>> token_bytes(PreTrainedTokenizerFast(tokenizer_object=bpe), vocab_size=5).tolist()
        [1, 1, 1, 2, 0]

    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        expected = "a PreTrainedTokenizerFast"
        check_kind(tokenizer, (), who="token_bytes", name="tokenizer", expected=expected)
    vocab_size = len(tokenizer) if vocab_size is None else vocab_size
    if vocab_size < len(tokenizer):
        raise ValueError(
            f"token_bytes: vocab_size: expected at least {len(tokenizer)}, the tokenizer's size, "
            f"got {vocab_size}."
        )
    kinds = _decoders(json.loads(tokenizer.backend_tokenizer.to_str())["decoder"])
    if not kinds & {"ByteLevel", "Metaspace", "ByteFallback"}:
        raise ValueError(
            "token_bytes: tokenizer: expected one that decodes by ByteLevel, Metaspace or "
            f"ByteFallback, got {', '.join(sorted(kinds)) or 'no decoder'}."
        )
    sizes = np.zeros(vocab_size, np.int32)
    added = tokenizer.added_tokens_decoder
    for token, number in tokenizer.get_vocab().items():
        if number in added:
            sizes[number] = 0 if added[number].special else len(added[number].content.encode())
        elif "ByteLevel" in kinds:
            sizes[number] = len(token)  # one character for each byte
        else:
            sizes[number] = 1 if _BYTE.fullmatch(token) else len(token.replace("▁", " ").encode())
    sizes[tokenizer.all_special_ids] = 0
    return sizes


def _decoders(decoder: dict[str, Any] | None) -> set[str]:
    """The types of a decoder and of those that it is a sequence of."""
    if decoder is None:
        return set()
    return {decoder["type"]}.union(*map(_decoders, decoder.get("decoders", [])))
