"""The plain PyTorch loop that rounds are timed against does the same work."""

import jax
import pytest

from fedjax_llm import DecoderConfig
from fedjax_llm.bench import Work, against_torch
from fedjax_llm.bench.torch_loop import torch_round
from fedjax_llm.bench.works import rounds_of

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=2,
)


@pytest.mark.parametrize("adapted", [False, True])
def test_as_many_parameters_are_trained_and_both_are_timed(adapted):
    work = Work(CONFIG, clients=2, steps=2, batch=2, seq=8, adapted=adapted)
    ours = next(rounds_of(work)).state.params
    once = torch_round(work, "float32")
    trained = next(
        cell.cell_contents for cell in once.__closure__ if isinstance(cell.cell_contents, list)
    )
    before = [p.detach().clone() for p in trained]
    once()
    assert sum(p.numel() for p in trained) == sum(leaf.size for leaf in jax.tree.leaves(ours))
    assert all((p != b).any() for p, b in zip(trained, before, strict=True))
    (row,) = against_torch({"smallest": work}, repeats=1)
    assert row["ratio"] > 0
    assert row["torch"]["dtype"] == "float32"
    assert row["torch"]["threads"] in (1, jax.device_count())
