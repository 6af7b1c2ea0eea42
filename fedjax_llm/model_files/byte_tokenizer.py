"""The tokenizer of byte-level models, in the files that `transformers` opens."""

import json
import os
from pathlib import Path
from typing import Any

_SHOWN = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
"""Bytes that tokenizers of the GPT-2 kind spell as the character of the same number."""


class ByteTokenizer:
    """Tokens are the bytes of UTF-8, numbered by their values.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fedjax_llm.model_files import ByteTokenizer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ByteTokenizer().save_pretrained(folder)
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['tokenizer.json', 'tokenizer_config.json']

    """

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`.

        Args:
            folder: A folder that exists.

        """
        hidden = [byte for byte in range(256) if byte not in _SHOWN]
        spelled = {byte: chr(byte) for byte in _SHOWN}
        spelled |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
        bytes_of_text = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        tokenizer: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": bytes_of_text,
            "post_processor": None,
            "decoder": bytes_of_text,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": {spelled[byte]: byte for byte in range(256)},
                "merges": [],
            },
        }
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
        }
        for name, values in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
            text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
            (Path(folder) / name).write_text(text, encoding="utf-8")
