"""The README's second example: `peft` reads the adapter that it trains."""

import re
from pathlib import Path

import jax
import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from fedjax_llm import models
from tests.parity.parity_decoder import off, say

README = Path(__file__).parents[2] / "README.md"


def test_peft_reads_the_adapter_that_the_readme_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    made = {}
    exec(compile(code, "README.md", "exec"), made)  # noqa: S102 - code of this repository
    base, task, params = made["base"], made["task"], made["r"].state.params
    models.save("runs/base", base.config, base.params, tokenizer=made["tokenizer"])
    ids = np.array([made["tokenizer"].encode("Hi! What did you do today? " * 4)])
    got = np.asarray(jax.jit(lambda p, f, i: task.model(p, f)(i))(params, task.frozen, ids))
    plain = AutoModelForCausalLM.from_pretrained("runs/base", attn_implementation="eager")
    with torch.no_grad():
        before = plain(torch.from_numpy(ids)).logits.numpy()
        tuned = PeftModel.from_pretrained(plain, "runs/adapter").eval()
        expected = tuned(torch.from_numpy(ids)).logits.numpy()
    say("SmolLM2-135M", "README's adapter", off(got, expected))
    assert off(got, expected) < 1e-4
    assert off(before, expected) > 1e-2
