import json

import pytest

from fedjax_llm.model_files import read_sharded_safetensors, write_safetensors
from tests.helpers.safetensors_files import same, some


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ({"weight_map": {"a": "../m.safetensors"}}, "'a' must be in a file of the same folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "'a' must be in a file of the same folder"),
        ({"weight_map": {"a": "sub\\m.safetensors"}}, "'a' must be in a file of the same folder"),
        ({"weight_map": {"a": ".."}}, "'a' must be in a file of the same folder"),
        ({"weight_map": {"a": "m\0"}}, "'a' must be in a file of the same folder"),
        ({"weight_map": {"a": 3}}, "'a' must be in a file of the same folder"),
        ({"weight_map": {"a": "n.safetensors"}}, "the file 'n.safetensors' is not in"),
        (
            {"weight_map": {"b": "m.safetensors"}},
            "tensor 'b' must be in .*m.safetensors, and is not",
        ),
        ({"weight_map": ["a"]}, "'weight_map' must map"),
        ({}, "'weight_map' must map"),
        ([], "must be a JSON object"),
    ],
)
def test_an_index_is_believed_in_nothing(tmp_path, index, text):
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
    held = read_sharded_safetensors(index)
    assert same(held["a"].read(), some() + 1)
    assert same(held["b"].read(), some())
