"""What a run with noise at its clients tells of privacy, against dp-accounting called directly."""

import json
import warnings
from pathlib import Path

import dp_accounting as dp
import jax
import numpy as np
import pytest

from fedjax_llm import RunConfig
from fedjax_llm.models import DecoderConfig
from fedjax_llm.runs.prepare import prepare
from fedjax_llm.runs.training import train
from tests.helpers.commands import ROLES

SECRET = Path(__file__).parents[2] / "helpers/a_secret.txt"
TINY = DecoderConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
pytestmark = pytest.mark.slow  # runs are prepared, one is trained
SGD = "dp_sgd(clip=0.1, noise_multiplier=2.0)"


def config(**options):
    return RunConfig(
        **{
            "rounds": 2,
            "clients": 2,
            "local_steps": 2,
            "batch": 2,
            "seq": 32,
            "decoder": TINY,
            "data": f"shakespeare(roles='{', '.join(ROLES)}')",
            "secret": str(SECRET),
            "delta": 1e-5,
            "gradients": SGD,
        }
        | options
    )


def told(after, **options):
    return prepare(config(**options)).private.row(after)


def test_epsilon_counts_the_steps_that_see_a_row():
    """Exact, for the Gaussian mechanism of as many releases: epochs times rounds of the client."""
    for options, rounds, releases in (
        ({}, 2, 2),  # each client has more rows than a round reads
        ({"local_steps": None, "local_epochs": 1}, 5, 5),
        ({"sampler": "cyclic(3)", "clients": 1}, 7, 3),
        ({"sampler": "without_replacement()"}, 3, 3),  # the server knows who was drawn
    ):
        row = told(rounds, **options)
        expected = dp.get_epsilon_gaussian(2.0 / np.sqrt(releases), 1e-5)
        np.testing.assert_allclose(row["epsilon"], expected, rtol=1e-9)
        assert (row["unit"], row["relation"], row["accountant"]) == ("row", "zero_out", "gaussian")
    assert "rows in shuffled passes, at most 1 releases of a row in a round" in row["sampler"]


def test_passes_whose_borders_a_step_crosses_are_counted():
    """Two epochs of the smallest client, whose rows may be twice in the step between them."""
    run = prepare(config(local_steps=None, local_epochs=2, batch=4))
    row = run.private.row(1)
    counts = run.split.train.rows(range(3), seq=32).counts
    releases = 4 if (counts % 4).any() else 2
    expected = dp.get_epsilon_gaussian(2.0 / np.sqrt(releases), 1e-5)
    np.testing.assert_allclose(row["epsilon"], expected, rtol=1e-9)


def test_rows_at_a_rate_are_amplified_with_draws_that_are_cut():
    """The truncated Poisson mechanism, of the client with the most rows."""
    noise = "dp_sgd(clip=0.1, noise_multiplier=2.0, rate=0.01)"
    run = prepare(config(gradients=noise, batch=32))
    row = run.private.row(3)
    most = int(run.split.train.rows(range(3), seq=32).counts.max())
    event = dp.TruncatedSubsampledGaussianDpEvent(most, 0.01, 32, 2.0)
    expected = dp.pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE).compose(event, 6)
    np.testing.assert_allclose(row["epsilon"], expected.get_epsilon(1e-5), rtol=1e-9)
    assert row["relation"] == "add_or_remove"
    assert "each row in each step with probability 0.01" in row["sampler"]
    smaller = dp.TruncatedSubsampledGaussianDpEvent(most // 2, 0.01, 32, 2.0)
    less = dp.pld.PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE).compose(smaller, 6)
    assert less.get_epsilon(1e-5) <= row["epsilon"]  # the client with the most rows has the most


def noised(rule, after, **options):
    return prepare(config(gradients=None, aggregate=rule, **options)).private.row(after)


def test_rules_whose_clients_add_noise_tell_theirs():
    """Who is drawn is seen by the server, and amplifies nothing; a separation counts."""
    row = noised("local_dp(clip=0.5, noise_multiplier=9.0)", 3, sampler="without_replacement()")
    expected = dp.get_epsilon_gaussian(
        4.5 / np.sqrt(3), 1e-5
    )  # neighbours are twice the clip apart
    np.testing.assert_allclose(row["epsilon"], expected, rtol=1e-9)
    assert (row["unit"], row["relation"]) == ("client", "replace_one")
    rule = "distributed_dp(clip=0.5, noise_multiplier=2.0, clients=2, bits=18)"
    run = prepare(config(gradients=None, aggregate=rule, adapter="lora(rank=1)"))
    entries = sum(leaf.size for leaf in jax.tree.leaves(run.task.params))
    scale = np.sqrt(4.0**18 - 2 * 25) / (10 * np.sqrt(0.25 * 4 / entries + 2 * 0.5))
    c = 0.5 * scale
    bound = min(c + entries**0.5, np.sqrt(c**2 + entries / 4 + c + entries**0.5 / 2))
    l2, l1 = bound / scale, bound * min(entries**0.5, bound) / scale
    orders = [*range(2, 129), 256]
    spent = [
        4
        * (
            a * l2**2 / 2
            + min(((2 * a - 1) * scale * l2**2 + 6 * l1) / (4 * scale**3), 3 * l1 / (2 * scale))
        )
        for a in orders
    ]  # of four rounds, with noise of variance 1
    expected = dp.rdp.compute_epsilon(orders, spent, 1e-5)[0]
    row = run.private.row(4)
    np.testing.assert_allclose(row["epsilon"], expected, rtol=1e-9)
    assert (row["relation"], row["accountant"]) == ("zero_out", "rdp")


def test_correlated_noise_is_told_for_clients_whose_rounds_are_apart():
    rule = "banded_dp_fed_avg(clip=0.5, noise_multiplier=2.0, bands=2, rounds=9)"
    apart = {"sampler": "cyclic(3)", "clients": 1}
    row = noised(rule, 7, **apart)
    expected = dp.get_epsilon_gaussian(2.0 / np.sqrt(3), 1e-5)
    np.testing.assert_allclose(row["epsilon"], expected, rtol=1e-9)
    with pytest.raises(ValueError, match="rounds: expected at most 9, for which the noise of"):
        noised(rule, 7, rounds=10, **apart)
    with pytest.raises(ValueError, match=r"sampler: with banded_dp_fed_avg.* expected cyclic"):
        noised(rule, 7)


def test_a_run_with_an_adapter_and_a_codec_trains_and_tells(tmp_path):
    """Error feedback comes after the noise, so that it costs nothing."""
    summary = train(
        config(
            adapter="lora(rank=2)",
            uplink="error_feedback(top_k(fraction=0.1))",
            gradients="dp_sgd(clip=0.1, noise_multiplier=2.0, microbatch=1)",
        ),
        out=tmp_path / "run",
    )
    expected = dp.get_epsilon_gaussian(2.0 / np.sqrt(2), 1e-5)
    np.testing.assert_allclose(summary["privacy"]["epsilon"], expected, rtol=1e-9)
    rows = [json.loads(each) for each in (tmp_path / "run/rounds.jsonl").read_text().splitlines()]
    assert "train_nats_per_byte" in rows[0]["privacy"]["withheld"]


def test_a_delta_of_one_row_in_all_warns():
    with pytest.warns(UserWarning, match=r"one in \d+ rows, got 0.5"):
        told(1, delta=0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"algorithm": "scaffold()"},
            "gradients: expected a method whose clients take local steps",
        ),
        (
            {"algorithm": "fed_mezo()"},
            "gradients: expected a method whose clients take local steps",
        ),
        ({"algorithm": "split_lora(cut=1)"}, "gradients: expected none with split_lora"),
        (
            {"aggregate": "dp_fed_avg(clip=1.0, noise_multiplier=1.0)"},
            "algorithm: fed_avg: noise: expected noise in one place",
        ),
        (
            {
                "gradients": "dp_sgd(clip=0.1, noise_multiplier=2.0, rate=0.1)",
                "local_steps": None,
                "local_epochs": 1,
            },
            "local_epochs: expected local_steps with rows drawn at a rate",
        ),
        ({"gradients": "dp_sgd(clip=0.1)"}, "gradients: "),
        (
            {"gradients": "dp_sgd(clip=0.1, noise_multiplier=2.0, rate=0.1)"},
            "batch: expected room for",
        ),
        ({"secret": None}, "secret: with dp_sgd"),
        (
            {"gradients": "dp_sgd(clip=0.1, noise_multiplier=2.0, microbatch=3)"},
            "gradients: microbatch: expected a divisor of batch=2",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with warnings.catch_warnings(), pytest.raises(ValueError, match=said.replace("(", r"\(")):
        prepare(config(**options))
