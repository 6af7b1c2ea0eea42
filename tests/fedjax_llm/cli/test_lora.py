"""Methods over LoRA's factors, as the command runs them."""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

from fedjax_llm import language_model
from fedjax_llm.adapters import lora
from fedjax_llm.algorithms.lora import flora
from fedjax_llm.algorithms.shared.base_changes import base_of
from fedjax_llm.models import DecoderConfig
from tests.helpers.commands import SMALL, refused, train

LORA = ("--clients", "4", "--adapter", "lora(rank=2)")
# q, k, v, o, gate, up and down of SMALL's one layer, by their inputs and outputs
A, B = 2 * (6 * 16 + 24), 2 * (16 + 8 + 8 + 16 + 24 + 24 + 16)
ALL = A + B
UP, DOWN = "uplink_bytes_by_round", "downlink_bytes_by_round"


@pytest.mark.long
@pytest.mark.parametrize(
    ("algorithm", "up", "down"),
    [
        ("ffa_lora()", [B, B], [B, B]),
        ("fed_sb()", [4 * 7, 4 * 7], [4 * 7, 4 * 7]),
        ("rolora()", [B + 1, A + 1], [2, B + 2]),
        ("fedex_lora()", [ALL, ALL], [ALL + 3 * ALL + 1] * 2),
        ("flora()", [ALL, ALL], [4 * ALL + 1] * 2),
        ("flora_ranks(ranks='2')", [ALL + 1] * 2, [2, 4 * ALL + 2]),
        ("flexlora(ranks='2')", [ALL + 1] * 2, [ALL] * 2),
        ("hetlora(ranks='2')", [ALL + 1] * 2, [ALL] * 2),
    ],
)
def test_methods_over_lora_run_and_send_what_they_say(tmp_path, algorithm, up, down):
    summary = train(tmp_path / "run", *LORA, "--algorithm", algorithm)
    assert summary["trainable"] == ALL
    assert summary["failed"] == 0
    assert summary[UP] == [4 * (12 + 4 * values) for values in up]
    assert summary[DOWN] == [4 * (12 + 4 * values) for values in down]
    assert 3 < summary["heldout_nats_per_byte"] < 6
    changed = algorithm.startswith(("flora", "fedex_lora"))
    assert (tmp_path / "run/model").exists() == changed
    assert (tmp_path / "run/adapter").exists() != changed


@pytest.mark.slow
def test_a_run_whose_clients_keep_their_own_model_scores_these_beside_the_servers(tmp_path):
    """The server's `b` is as it was, zero, so that its model is the base whatever it learns."""
    own = ("--algorithm", "fedsa_lora()", "--seq", "64")
    one = train(tmp_path / "one", *LORA, *own, "--rounds", "1", "--clients", "3")
    more = train(tmp_path / "more", *LORA, *own, "--rounds", "6", "--clients", "3")
    assert more["heldout_nats_per_byte"] == one["heldout_nats_per_byte"]
    assert more["personal_nats_per_byte"] < one["personal_nats_per_byte"]
    assert one["personal_nats_per_byte"] < one["heldout_nats_per_byte"]
    assert (one["personal_models"], more["personal_models"]) == (3, 4)
    assert one[UP] == one[DOWN] == [3 * (12 + 4 * A)]
    (tmp_path / "one/summary.json").unlink()
    again = train(tmp_path / "one", *LORA, *own, "--rounds", "1", "--clients", "3", "--resume")
    assert {**again, "seconds": 0} == {**one, "seconds": 0}  # by what the checkpoint kept


@pytest.mark.slow
def test_a_model_in_two_halves_runs_and_sends_activations(tmp_path):
    two = ("--num-hidden-layers", "2", "--algorithm", "split_lora(cut=1)")
    summary = train(tmp_path / "run", *LORA, *two, "--uplink", "eden(bits=4)")
    places = 2 * 32  # rows of tokens, of 16 activations each
    once = 12 + 4 * ALL
    assert summary["trainable"] == 2 * ALL
    assert summary[DOWN] == [4 * (once + 2 * (12 + 4 * 16 * places))] * 2
    labels = places + places // 8
    assert all(
        0 < sent - 4 * (once + 2 * labels) < 4 * 2 * (12 + 10 * places) for sent in summary[UP]
    )
    assert 3 < summary["heldout_nats_per_byte"] < 6
    assert (tmp_path / "run/adapter").exists()


@pytest.mark.slow
def test_flasc_runs_with_fewer_bytes_both_ways(tmp_path):
    summary = train(tmp_path / "run", *LORA, "--algorithm", "flasc(up=0.25, down=0.25)")
    for direction in (UP, DOWN):
        assert all(ALL < sent / 4 < 2 * ALL for sent in summary[direction])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--algorithm", "ffa_lora()"),
            "algorithm: ffa_lora: params: expected LoRA factors a and b only",
        ),
        (
            ("--algorithm", "ffa_lora()", "--adapter", "dora(rank=2)"),
            "got a, b, magnitude; use fed_avg for DoRA magnitudes",
        ),
        (
            ("--algorithm", "flora()", "--adapter", "lora(rank=2)"),
            "algorithm: flora needs every client in every round",
        ),
        (
            ("--algorithm", "split_lora()", "--adapter", "lora(rank=2)"),
            "algorithm: split_lora: layers: expected a model of at least 2 layers, got 1",
        ),
        (
            ("--algorithm", "split_lora()", "--num-hidden-layers", "2"),
            "algorithm: split_lora: trainable parameters: expected stacks of 2 layers",
        ),
        (
            ("--algorithm", "split_lora()", "--client-axis", "scan()"),
            "client_axis: split_lora runs a round's clients together",
        ),
        (
            ("--algorithm", "flora()", "--adapter", "full()", "--clients", "4"),
            "needs an adapter of one scale, such as lora(rank=8), got full()",
        ),
        (
            (
                "--algorithm",
                "fedex_lora()",
                "--clients",
                "4",
                "--adapter",
                "int8_base(lora(rank=2))",
            ),
            "algorithm: expected a frozen kernel of shape",
        ),
        (
            ("--algorithm", "hetlora(ranks='1,2')", "--adapter", "prompt_tuning(tokens=2)"),
            "algorithm: hetlora: params: expected LoRA factors a and b only",
        ),
        (
            (
                *("--algorithm", "flexlora(ranks='1')"),
                *("--adapter", "lora(rank=2, rank_pattern='q_proj=1')"),
            ),
            "algorithm: flexlora: params: expected LoRA of one rank, got [1, 2]",
        ),
        (
            ("--algorithm", "fed_sb(seed=None)", "--adapter", "lora(rank=2)"),
            "expected factors that are not all zero with seed=None, got lora(rank=2)",
        ),
        (
            ("--algorithm", "spry()", "--adapter", "seeds(count=4)"),
            "algorithm: spry differentiates forwards, and the sum of directions of seeds(count=4)",
        ),
        (
            ("--algorithm", "fwd_llm()", "--adapter", "seeds(count=4)"),
            "algorithm: fwd_llm differentiates forwards",
        ),
        (
            ("--algorithm", "fed_bpt()", "--adapter", "seeds(count=4)"),
            "that differ, as their deviation scales the search, got seeds(count=4), whose values",
        ),
    ],
)
def test_what_breaks_a_guarantee_is_refused_before_anything_runs(tmp_path, capsys, args, message):
    assert message in refused(capsys, "train", *SMALL, "--out", str(tmp_path / "run"), *args)
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_what_goes_into_a_decoders_kernels_is_what_its_adapter_adds():
    config = DecoderConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    task = language_model(config, key=jr.key(0), adapter=lora(rank=2, alpha=3.0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jr.normal(jr.key(1), leaf.shape), task.params)
    algorithm = flora(task.loss, task.params, client_optimizer=optax.sgd(0.1), scale=1.5, clients=2)
    state = jax.jit(algorithm.init)(jr.key(2), params)
    tokens = jnp.arange(12)[None] * 7 % 256
    adapted = task.model(params, task.frozen)(tokens)
    moved = task.model(state.params, base_of(state, task.frozen))(tokens)
    plain = task.model(state.params, task.frozen)(tokens)
    assert float(jnp.abs(adapted - moved).max()) < 1e-4
    assert float(jnp.abs(adapted - plain).max()) > 1e-2
