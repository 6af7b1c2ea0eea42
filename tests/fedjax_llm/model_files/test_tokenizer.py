import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from fedjax_llm.model_files import open_gguf
from fedjax_llm.model_files.gguf_tokenizer import read_gguf_tokenizer
from tests.helpers.gguf_files import TEMPLATE, TOKENS, write_gguf

TEXTS = [
    "Hello world! The quick brown fox",
    "x   1 and 22   333",
    "  leading, trailing  ",
    "tabs\t\t3\n\n\n 4",
    "naïve café — “quotes” 你好世界 🦊🏽 \u200d e\u0301",
    "١٢٣ ½ ² Ⅷ",
    "\x00\x01\x7f\u00a0\u3000",
    "",
    "\n",
    " a . b , c ! don't we've",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return open_gguf(write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf")).load_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_returns_every_text_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_indices_into_the_token_list(tokenizer):
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert len(tokenizer) == tokenizer.vocab_size == len(TOKENS)
    assert tokenizer.convert_ids_to_tokens(range(len(TOKENS))) == TOKENS


def test_special_tokens_have_their_roles(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.unk_token, tokenizer.pad_token) == ("<|endoftext|>", "<|im_end|>")
    assert tokenizer.encode("he<|im_end|>he<user>") == [
        TOKENS.index(t) for t in ("he", "<|im_end|>", "he", "<user>")
    ]
    ids = tokenizer.encode("a<|im_end|><user>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<user>"
    assert tokenizer.model_max_length == 128


def test_smollm_splits_digits_before_words(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("a   12"))
    assert tokens == ["a", "ĠĠĠ", "1", "2"]


def test_gpt_2_splits_words_only(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", change={"tokenizer.ggml.pre": "gpt-2"})
    tokenizer = read_gguf_tokenizer(path)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("a   12"))
    assert tokens == ["a", "ĠĠ", "Ġ", "1", "2"]


def test_the_chat_template_comes_from_the_file(tokenizer):
    assert tokenizer.chat_template == TEMPLATE
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "user: Hi\n"


def test_a_bos_token_is_added_if_the_file_says_so(tmp_path, tokenizer):
    path = write_gguf(tmp_path / "m.gguf", change={"tokenizer.ggml.add_bos_token": True})
    with_bos = read_gguf_tokenizer(path)
    assert with_bos.encode("a") == [1, *tokenizer.encode("a")]
    assert with_bos.encode("a", add_special_tokens=False) == tokenizer.encode("a")


def test_the_tokenizer_survives_save_pretrained(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
    assert again.chat_template == TEMPLATE
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("he").ids == [
        TOKENS.index("he")
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model: expected 'gpt2'.*got 'llama'"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model: expected 'gpt2'.*got None"),
        ({"tokenizer.ggml.pre": "qwen2"}, "expected 'smollm' or 'gpt-2', got 'qwen2'"),
        ({"tokenizer.ggml.add_space_prefix": True}, "add_space_prefix: expected false, got True"),
        ({"tokenizer.ggml.tokens": None}, "ggml.tokens: expected a list of text, got None"),
        ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "a"]}, "tokens: expected distinct texts"),
        ({"tokenizer.ggml.tokens": [*TOKENS, "more"]}, "token_type: expected an array with one"),
        ({"tokenizer.ggml.merges": ["a"]}, "pairs of tokens that join to a token, got 'a'"),
        ({"tokenizer.ggml.merges": ["a b"]}, "pairs of tokens that join to a token, got 'a b'"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "pairs of tokens that join to a token"),
        (
            {"tokenizer.ggml.eos_token_id": 9999},
            r"eos_token_id: expected an id below \d+, got 9999",
        ),
        ({"tokenizer.ggml.eos_token_id": "x"}, r"eos_token_id: expected an id below \d+, got 'x'"),
        (
            {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": None},
            "bos_token_id: expected an id, as add_bos_token is true",
        ),
    ],
)
def test_an_unsupported_vocabulary_is_refused(tmp_path, change, text):
    path = write_gguf(tmp_path / "m.gguf", change=change)
    with pytest.raises(ValueError, match=text) as error:
        read_gguf_tokenizer(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.slow
def test_importing_transformers_says_nothing():
    """Where torch is missing it logs a warning, and only tokenizers are used."""
    code = "from fedjax_llm.model_files.quiet import import_transformers; import_transformers()"
    environment = {k: v for k, v in os.environ.items() if k != "TRANSFORMERS_VERBOSITY"}
    path = os.pathsep.join([".", "compression"])
    said = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (said.stdout, said.stderr) == ("", "")
