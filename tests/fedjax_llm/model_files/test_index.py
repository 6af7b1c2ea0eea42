import json

import pytest

from fedjax_llm.model_files import read_sharded_safetensors, write_safetensors
from tests.helpers.safetensors_files import same, some


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"weight_map": {"a": "../m.safetensors"}}, "'a': expected the name of a file in the same"),
        ({"weight_map": {"a": "/etc/passwd"}}, "'a': expected the name of a file in the same"),
        (
            {"weight_map": {"a": "sub\\m.safetensors"}},
            "'a': expected the name of a file in the same",
        ),
        ({"weight_map": {"a": ".."}}, "'a': expected the name of a file in the same"),
        ({"weight_map": {"a": "m\0"}}, "'a': expected the name of a file in the same"),
        ({"weight_map": {"a": 3}}, "'a': expected the name of a file in the same"),
        ({"weight_map": {"a": "n.safetensors"}}, "expected the file 'n.safetensors' in"),
        (
            {"weight_map": {"b": "m.safetensors"}},
            "expected tensor 'b' in .*m.safetensors, got none",
        ),
        ({"weight_map": ["a"]}, "weight_map: expected a mapping"),
        ({}, "weight_map: expected a mapping"),
        ([], "expected a JSON object, got list"),
    ],
)
def test_a_malformed_index_is_refused(tmp_path, index, text):
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors(folder / "m.safetensors", {"a": some()})
    write_safetensors(tmp_path / "m.safetensors", {"a": some()})
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=text) as error:
        read_sharded_safetensors(path)
    assert str(error.value).startswith(str(path))


def test_an_index_decides_which_shard_a_tensor_is_read_from(tmp_path):
    for i, name in enumerate(("one", "two")):
        write_safetensors(tmp_path / f"{name}.safetensors", {"a": some() + i, "b": some() + i})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}}))
    tensors = read_sharded_safetensors(index)
    assert same(tensors["a"].read(), some() + 1)
    assert same(tensors["b"].read(), some())
