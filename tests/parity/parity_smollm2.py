"""SmolLM2 compared with transformers on torch, which opens the folder that `save` writes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from fedjax_llm.models import from_params, generate, hf_tensors, load, save
from tests.parity.parity_decoder import off, say

PROMPTS = (
    "What is the capital of France, and what is it known for?",
    "Write a short story about a lighthouse keeper who finds a letter.",
)


@pytest.fixture(scope="module")
def ours():
    return load("smollm2")


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    save(folder, ours.config, ours.params, tokenizer=ours.load_tokenizer())
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def forward(ours):
    return jax.jit(lambda params, ids: from_params(ours.config, params)(ids))


def ids_of(tokenizer, length):
    text = " ".join(f"{number} green bottles hang on the wall." for number in range(999, 0, -1))
    return np.array([tokenizer.encode(text)[:length]])


@pytest.mark.parametrize("length", [64, 2048])
def test_logits(ours, theirs, forward, length):
    model, tokenizer = theirs
    ids = ids_of(tokenizer, length)
    got = np.asarray(forward(ours.params, ids))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids), use_cache=False).logits.numpy()
    error = off(got, expected)
    say("SmolLM2-135M", f"{length} positions", error)
    assert error < 1e-4


def test_gradients(ours, theirs):
    model, tokenizer = theirs
    ids = ids_of(tokenizer, 65)

    def loss(params, ids):
        logits = from_params(ours.config, params)(ids[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()

    got = hf_tensors(ours.config, jax.jit(jax.grad(loss))(ours.params, ids))
    exact, rounded = (torch_gradients(model, ids, kind) for kind in (torch.float64, torch.float32))
    assert set(got) == set(exact)
    errors = {name: off(got[name], value) for name, value in exact.items()}
    torch_error = max(off(rounded[name], value) for name, value in exact.items())
    say("SmolLM2-135M", f"gradients (torch {torch_error:.1e})", max(errors.values()))
    assert max(errors.values()) < 1e-3, max(errors, key=errors.get)


def torch_gradients(model, ids, dtype):
    """Gradients by name, as float64, computed in `dtype`; the model is float32 again afterwards."""
    long = torch.from_numpy(ids)
    logits = model.to(dtype)(long[:, :-1], use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), long[:, 1:].flatten()).backward()
    found = {name: value.grad.double().numpy() for name, value in model.named_parameters()}
    model.zero_grad()
    model.float()
    return found


def test_greedy_text(ours, theirs, monkeypatch):
    model, tokenizer = theirs
    monkeypatch.setattr(model.generation_config, "eos_token_id", None)
    for prompt in PROMPTS:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = np.array([tokenizer.encode(text, add_special_tokens=False)])
        got = generate(
            from_params(ours.config, ours.params), jnp.asarray(ids), max_new_tokens=200
        ).tokens
        expected = model.generate(
            torch.from_numpy(ids),
            attention_mask=torch.ones(ids.shape, dtype=torch.long),
            generation_config=GenerationConfig(
                max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0
            ),
        )
        assert np.array_equal(got, expected[:, ids.shape[1] :].numpy()), prompt


def test_the_saved_tokenizer_is_the_same(ours, theirs):
    text = "<|im_start|>user\nDon't  count 123 or 4,567.<|im_end|>\n"
    assert theirs[1].encode(text) == ours.load_tokenizer().encode(text)
    assert theirs[0].config.eos_token_id == theirs[1].eos_token_id
    assert theirs[0].generation_config.eos_token_id == theirs[1].eos_token_id
