"""Files of peft without peft: written, read back and refused."""

import json
import shutil

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx

from fedjax_llm.adapters import (
    Added,
    adapt,
    bottleneck,
    dora,
    export_adapter,
    ia3,
    import_adapter,
    layers,
    lora,
    prefix_tuning,
    prompt_tuning,
)
from fedjax_llm.model_files import read_safetensors, write_safetensors
from fedjax_llm.models import Decoder
from tests.helpers.tiny import TINY

KINDS = {
    "lora": lora(rank=2, targets="q_proj,up_proj"),
    "patterns": lora(
        rank=2, targets=r".*\.1\..*q_proj|.*o_proj", rank_pattern="layers.0.*=3", alpha=5.0
    ),
    "dora": dora(rank=2, targets="v_proj"),
    "ia3": ia3(),
    "prompt": prompt_tuning(tokens=3),
    "prefix": prefix_tuning(tokens=3),
}


def made(adapter):
    one = adapt(adapter, Decoder(TINY, rngs=nnx.Rngs(0)), key=jr.key(1))
    params = jax.tree.map(lambda p: p + 0.1 * jr.normal(jr.key(2), p.shape), one.params)
    return one.merge(params, one.frozen)


def added(model):

    return nnx.to_pure_dict(nnx.state(model, Added))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("peft")
    export_adapter(place, made(KINDS["lora"]), base_model="owner/name")
    return place


def changed(folder, tmp_path, *, config=None, tensors=None):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    if tensors:
        path = tmp_path / "adapter_model.safetensors"
        held = {name: tensor.read() for name, tensor in read_safetensors(path).items()}
        write_safetensors(path, {k: v for k, v in (held | tensors).items() if v is not None})
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back_bit_for_bit(kind, tmp_path):
    model = made(KINDS[kind])
    export_adapter(tmp_path, model)
    one = adapt(import_adapter(tmp_path), Decoder(TINY, rngs=nnx.Rngs(0)), key=jr.key(9))
    again = one.merge(one.params, one.frozen)
    same = jax.tree.map(np.array_equal, added(again), added(model))
    assert all(jax.tree.leaves(same))
    ids = jnp.arange(8)[None]
    np.testing.assert_allclose(again(ids), model(ids), rtol=1e-6, atol=1e-6)


def test_files_are_those_of_peft(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    wanted = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "owner/name",
        "r": 2,
        "lora_alpha": 4.0,
        "target_modules": ["self_attn.q_proj", "mlp.up_proj"],
    }
    assert {name: config[name] for name in wanted} == wanted
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    module = "base_model.model.model.layers.1.mlp.up_proj"
    assert len(tensors) == 8
    assert tensors[f"{module}.lora_A.weight"].shape == (2, 16)
    assert tensors[f"{module}.lora_B.weight"].shape == (24, 2)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
ELSEWHERE = A.replace("layers.0", "layers.9")


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"peft_type": "LOHA"}, {}, "peft_type: expected LORA, IA3, .*'LOHA'"),
        ({"r": 0}, {}, "r: expected an integer from 1"),
        ({"r": 3}, {}, r"lora_A.weight': expected shape \(3, 16\), got \(2, 16\)"),
        ({"lora_alpha": None}, {}, "lora_alpha: expected a number"),
        ({"lora_alpha": 0}, {}, "lora_alpha: expected a number above 0 .* got 0"),
        ({"lora_alpha": float("nan")}, {}, "lora_alpha: expected a number above 0 .* got nan"),
        ({"alpha_pattern": {"q_proj": -1}}, {}, "lora_alpha: expected a number above 0 .* got -1"),
        ({}, {A: np.full((2, 16), np.nan, np.float32)}, r"expected finite .* got nan at \(0, 0\)"),
        ({}, {A: np.full((2, 16), 1e300)}, r"lora_A.weight': expected finite numbers, got inf"),
        ({"modules_to_save": ["lm_head"]}, {}, "modules_to_save: expected none, or among class"),
        ({"layer_replication": [[0, 1]]}, {}, "layer_replication: expected no value"),
        ({"init_lora_weights": "pissa"}, {}, "do not change the base model, got 'pissa'"),
        ({"bias": "all"}, {}, "bias: expected none, got 'all'"),
        ({"rank_pattern": [2]}, {}, "rank_pattern: expected an object"),
        ({"alpha_pattern": {"(a+)+b": 2}}, {}, "at most four repetitions"),
        ({"alpha_pattern": {"(": 2}}, {}, "alpha_pattern: expected names, or patterns"),
        ({}, {A: None}, "tensor .*layers.0.self_attn.q_proj.lora_A.weight': .* got no tensor of"),
        ({}, {A: np.zeros((2, 15), np.float32)}, r"expected shape \(2, 16\), got \(2, 15\)"),
        ({}, {A: np.zeros((2, 16), np.int32)}, "expected one of float16, .* got int32"),
        (
            {},
            {ELSEWHERE: np.zeros((2, 16), np.float32)},
            "expected only .*, got .*layers.9",
        ),
        ({"use_dora": True}, {}, "lora_magnitude_vector.* got no tensor of this name"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(folder, tmp_path, config, tensors, message):
    place = changed(folder, tmp_path, config=config, tensors=tensors)
    with pytest.raises(ValueError, match=message) as error:
        adapt(import_adapter(place), Decoder(TINY, rngs=nnx.Rngs(0)), key=jr.key(0))
    assert str(tmp_path) in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dora", "ia3", "prompt", "prefix"])
def test_a_nan_in_any_kind_of_adapter_is_refused(kind, tmp_path):
    export_adapter(tmp_path, made(KINDS[kind]))
    path = tmp_path / "adapter_model.safetensors"
    tensors = {name: tensor.read() for name, tensor in read_safetensors(path).items()}
    name = sorted(tensors)[-1]
    tensors[name].flat[-1] = np.nan
    write_safetensors(path, tensors)
    with pytest.raises(ValueError, match=r"expected finite numbers, got nan at \(.*\); the adapt"):
        adapt(import_adapter(tmp_path), Decoder(TINY, rngs=nnx.Rngs(0)), key=jr.key(0))


def test_an_adapter_for_another_base_is_refused(folder):
    with pytest.raises(ValueError, match="expected other/name, got 'owner/name'"):
        import_adapter(folder, base_model="other/name")
    import_adapter(folder, base_model="owner/name")


def test_a_folder_that_lacks_a_file_is_refused(folder, tmp_path):
    shutil.copy(folder / "adapter_config.json", tmp_path)
    with pytest.raises(
        ValueError, match=r"adapter_model\.safetensors: expected a file .* got no such"
    ):
        import_adapter(tmp_path)


def test_a_truncated_file_is_refused(folder, tmp_path):
    place = changed(folder, tmp_path)
    path = place / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"expected \d+ bytes, the end of the last tensor"):
        import_adapter(place)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [bottleneck(size=2), layers(0), layers(1), None])
def test_what_peft_has_no_format_for_is_not_written(adapter, tmp_path):
    model = Decoder(TINY, rngs=nnx.Rngs(0)) if adapter is None else made(adapter)
    with pytest.raises(ValueError, match=r"expected one with one kind .* got (none|Bottleneck)"):
        export_adapter(tmp_path, model)
    assert not list(tmp_path.iterdir())
