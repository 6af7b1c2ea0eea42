"""Reading the tokenizer in a GGUF file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .gguf_header import read_gguf_header
from .quiet import import_transformers

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_CONTROL, _USER_DEFINED = 3, 4


def read_gguf_tokenizer(path: Path) -> "PreTrainedTokenizerFast":
    """Read the byte-level BPE in a GGUF file, with its special tokens and chat template.

    The id of a token is its index in `tokenizer.ggml.tokens`. `decode(encode(text))` returns every
    text unchanged, as `clean_up_tokenization_spaces` is off. Chat templates need jinja2.

    Args:
        path: The file.

    Returns:
        The tokenizer.

    Raises:
        ModuleNotFoundError: The package gguf is not installed.
        ValueError: The vocabulary is not byte-level BPE (`tokenizer.ggml.model` gpt2), the
            pre-tokeniser is neither smollm nor gpt-2, or the vocabulary is inconsistent.

    """
    given = read_gguf_header(path).metadata
    try:
        backend = _backend(given)
        roles = _roles(given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    template = given.get("tokenizer.chat_template")
    length = given.get("llama.context_length")
    known = list(roles.values())
    return import_transformers().PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[t for t in _of_type(given, _CONTROL) if t not in known],
        **{f"{role}_token": token for role, token in roles.items()},
        **({"chat_template": template} if isinstance(template, str) else {}),
        **({"model_max_length": length} if type(length) is int else {}),
    )


def _backend(given: Mapping[str, Any]) -> "Tokenizer":
    """Build the tokenizer without the special tokens' roles."""
    from tokenizers import (  # noqa: PLC0415
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        processors,
    )

    model = given.get("tokenizer.ggml.model")
    if not isinstance(model, str) or model != "gpt2":
        raise ValueError(
            f"tokenizer.ggml.model: expected 'gpt2' (byte-level BPE), got {model!r:.80}."
        )
    bytes_and_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    kind = given.get("tokenizer.ggml.pre")
    if not isinstance(kind, str):
        raise ValueError(f"tokenizer.ggml.pre: expected 'smollm' or 'gpt-2', got {kind!r:.80}.")
    if kind == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        splits: pre_tokenizers.PreTokenizer = pre_tokenizers.Sequence([digits, bytes_and_words])
    elif kind in ("gpt-2", "gpt2"):
        splits = bytes_and_words
    else:
        raise ValueError(f"tokenizer.ggml.pre: expected 'smollm' or 'gpt-2', got {kind!r:.80}.")
    if _flag(given, "tokenizer.ggml.add_space_prefix"):
        raise ValueError("tokenizer.ggml.add_space_prefix: expected false, got True.")
    vocabulary = {token: i for i, token in enumerate(_tokens(given))}
    merges = []
    for merge in _texts(given, "tokenizer.ggml.merges"):
        first, space, second = merge.partition(" ")
        if not space or not {first, second, first + second} <= vocabulary.keys():
            raise ValueError(
                "tokenizer.ggml.merges: expected pairs of tokens that join to a token, got "
                f"{merge!r:.80}."
            )
        merges.append((first, second))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = splits
    tokenizer.decoder = decoders.ByteLevel()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [AddedToken(t, special=special, normalized=False) for t in _of_type(given, kind)]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(added)
    if _flag(given, "tokenizer.ggml.add_bos_token"):
        bos = _roles(given).get("bos")
        if bos is None:
            raise ValueError(
                "tokenizer.ggml.bos_token_id: expected an id, as add_bos_token is true, got None."
            )
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"],
            pair=[bos, "$A", bos, "$B"],
            special_tokens=[(bos, vocabulary[bos])],
        )
    return tokenizer


def _flag(given: Mapping[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise ValueError(f"{key}: expected true or false, got {value!r:.80}.")
    return value


def _texts(given: Mapping[str, Any], key: str) -> list[str]:
    value = given.get(key)
    if not isinstance(value, list):
        raise ValueError(f"{key}: expected a list of text, got {value!r:.80}.")
    return value


def _tokens(given: Mapping[str, Any]) -> list[str]:
    tokens = _texts(given, "tokenizer.ggml.tokens")
    if "" in tokens or len(set(tokens)) != len(tokens):
        raise ValueError(
            "tokenizer.ggml.tokens: expected distinct texts, got an empty or a repeated one."
        )
    return tokens


def _of_type(given: Mapping[str, Any], kind: int) -> Sequence[str]:
    """Return the tokens of a type, in the order of their ids."""
    tokens = _tokens(given)
    types = given.get("tokenizer.ggml.token_type", np.ones(len(tokens), np.int32))
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise ValueError(
            f"tokenizer.ggml.token_type: expected an array with one entry for each of "
            f"{len(tokens)} tokens, got {types!r:.80}."
        )
    return [tokens[i] for i in np.flatnonzero(types == kind)]


def _roles(given: Mapping[str, Any]) -> dict[str, str]:
    """Return the special token of each role that the file assigns."""
    tokens = _tokens(given)
    roles = {}
    for role, gguf_role in _ROLES.items():
        key = f"tokenizer.ggml.{gguf_role}_token_id"
        token = given.get(key)
        if token is None:
            continue
        if type(token) is not int or not 0 <= token < len(tokens):
            raise ValueError(f"{key}: expected an id below {len(tokens)}, got {token!r:.80}.")
        roles[role] = tokens[token]
    return roles
