"""What `train` delivers, opened by peft and transformers from its folder alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedjax_llm import models
from fedjax_llm.adapters import adapt, import_adapter
from fedjax_llm.models import from_params
from tests.helpers.commands import train

TEXT = "To be, or not to be \u2014 that is the question:\n\tWhether 'tis nobler"


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(torch.tensor([ids])).logits.numpy()


@pytest.mark.parametrize("adapter", ["lora(rank=2)", "prefix_tuning(tokens=3)"])
def test_peft_opens_an_adapter_and_the_base_it_names(adapter, tmp_path):
    train(tmp_path / "run", "--adapter", adapter)
    folder = tmp_path / "run/adapter"
    theirs = peft.AutoPeftModelForCausalLM.from_pretrained(folder)
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    base, ids = models.load(named), list(TEXT.encode())
    one = adapt(
        import_adapter(folder), from_params(base.config, base.params), key=jax.random.key(0)
    )
    ours = one.merge(one.params, one.frozen)(jnp.array([ids]))
    np.testing.assert_allclose(ours, logits(theirs, ids), rtol=1e-3, atol=1e-4)


def test_transformers_opens_a_byte_decoder_with_its_tokenizer(tmp_path):
    train(tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run/model")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == list(TEXT.encode())
    loaded = models.load(tmp_path / "run/model")
    ours = from_params(loaded.config, loaded.params)(jnp.array([ids]))
    np.testing.assert_allclose(ours, logits(theirs, ids), rtol=1e-3, atol=1e-4)
