"""Adapters of every kind on every family, compared with peft on torch.

Texts are longer than the sliding windows, which hold five tokens. peft only warns about wrong
names, so logits are compared.
"""

import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import peft
import pytest
import torch
from flax import nnx
from transformers import AutoModelForCausalLM

from fedjax_llm.adapters import (
    adapt,
    dora,
    export_adapter,
    ia3,
    import_adapter,
    lora,
    merge_adapter,
    nf4_base,
    prefix_tuning,
    prompt_tuning,
    rslora,
)
from fedjax_llm.model_files import write_safetensors
from fedjax_llm.models import config_from, config_to, from_params, hf_tensors
from tests.helpers.families import FAMILIES, params, tokens, uniform
from tests.parity.reference import reference

OURS = {
    "lora": lambda fused: lora(rank=3),
    "some layers": lambda fused: lora(
        rank=2,
        targets=r".*\.(0|2)\..*(q_proj|c_attn)|.*\.1\..*(down_proj|c_fc)",
        rank_pattern=r"(layers|h)\.0\..*=4",
        alpha_pattern=r"(layers|h)\.2\..*=9.0",
    ),
    "rslora": lambda fused: rslora(rank=4, targets="c_attn" if fused else "q_proj,v_proj"),
    "dora": lambda fused: dora(rank=2, targets="c_attn,c_proj" if fused else "k_proj,gate_proj"),
    "ia3": lambda fused: ia3(),
    "prompt": lambda fused: prompt_tuning(tokens=4),
    "prefix": lambda fused: prefix_tuning(tokens=4),
}
VIRTUAL = {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"}
THEIRS = {
    "lora": lambda fused: peft.LoraConfig(
        r=3, lora_alpha=5, target_modules="all-linear", init_lora_weights=False
    ),
    "patterns": lambda fused: peft.LoraConfig(
        r=2,
        target_modules=["c_attn", "c_fc"] if fused else ["q_proj", "up_proj"],
        rank_pattern={r"(layers|h)\.1\..*": 3},
        alpha_pattern={"c_fc": 3, "up_proj": 3},
        layers_to_transform=[0, 1],
        init_lora_weights=False,
    ),
    "rslora and dora": lambda fused: peft.LoraConfig(
        r=4,
        use_rslora=True,
        use_dora=True,
        target_modules=["c_attn"] if fused else ["v_proj", "down_proj"],
        init_lora_weights=False,
    ),
    "ia3": lambda fused: peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["c_attn", "mlp.c_proj"] if fused else ["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["mlp.c_proj" if fused else "down_proj"],
        init_ia3_weights=False,
    ),
    "prompt": lambda fused: peft.PromptTuningConfig(**VIRTUAL),
    "prefix": lambda fused: peft.PrefixTuningConfig(**VIRTUAL),
}
each_model = pytest.mark.parametrize("name", FAMILIES)
ids = tokens((2, 17))


def adapted(name, adapter, *, moved=True):
    """A decoder with an adapter; `moved` gives the adapter parameters that change the logits."""
    config = config_from(FAMILIES[name])
    one = adapt(adapter, from_params(config, params(config)), key=jr.key(0))
    leaves, structure = jax.tree.flatten(one.params)
    if moved:
        leaves = [p + 0.3 * uniform(f"leaf {i}", p.shape) for i, p in enumerate(leaves)]
    return one.merge(jax.tree.unflatten(structure, leaves), one.frozen)


def fused(name):
    return name.startswith("gpt2")


def logits(model):
    return np.asarray(nnx.jit(lambda model, ids: model(ids))(model, jnp.asarray(ids)))


def torch_logits(model, drop=0):
    with torch.no_grad():
        return model(torch.from_numpy(ids).long()).logits.numpy()[:, drop:]


def off(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


@each_model
@pytest.mark.parametrize("kind", OURS)
def test_peft_reads_our_adapters(name, kind, tmp_path):
    model = adapted(name, OURS[kind](fused(name)))
    export_adapter(tmp_path, model)
    theirs = peft.PeftModel.from_pretrained(reference(name), tmp_path).eval()
    expected = torch_logits(theirs, drop=4 if kind == "prompt" else 0)
    plain = torch_logits(reference(name))
    error, effect = off(logits(model), expected), off(plain, expected)
    print(f"\n{name:15} {kind:12} error {error:.1e}, effect {effect:.1e}")
    assert effect > 1e-2
    assert error < 1e-4
    again = adapted(name, import_adapter(tmp_path), moved=False)
    np.testing.assert_array_equal(logits(again), logits(model))


@each_model
@pytest.mark.parametrize("kind", THEIRS)
def test_we_read_adapters_of_peft(name, kind, tmp_path):
    torch.manual_seed(0)
    theirs = peft.get_peft_model(reference(name), THEIRS[kind](fused(name))).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    expected = torch_logits(theirs, drop=4 if kind == "prompt" else 0)
    model = adapted(name, import_adapter(tmp_path), moved=False)
    error, effect = off(logits(model), expected), off(torch_logits(reference(name)), expected)
    print(f"\n{name:15} {kind:16} error {error:.1e}, effect {effect:.1e}")
    assert effect > 1e-2
    assert error < 1e-4


@each_model
@pytest.mark.parametrize("kind", ["lora", "some layers", "dora", "ia3", "packed"])
def test_merged_models_open_in_transformers(name, kind, tmp_path):
    adapter = nf4_base(lora(rank=2)) if kind == "packed" else OURS[kind](fused(name))
    model = adapted(name, adapter)
    config = model.config
    write_safetensors(tmp_path / "model.safetensors", hf_tensors(config, merge_adapter(model)))
    (tmp_path / "config.json").write_text(json.dumps(config_to(config)))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    error = off(logits(model), torch_logits(theirs))
    print(f"\n{name:15} {kind:12} error {error:.1e}")
    assert error < 1e-4
