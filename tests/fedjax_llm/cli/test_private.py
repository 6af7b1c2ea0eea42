"""Private runs as people type them."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from fedjax_llm.runs import training
from tests.helpers.commands import SMALL, refused, train

SECRET = Path(__file__).parents[2] / "helpers/a_secret.txt"
RULE = "dp_fed_avg(clip=0.5, noise_multiplier=2.0)"
PRIVATE = ["--aggregate", RULE, "--secret", str(SECRET), "--delta", "0.01"]
TOLD = {
    *("epsilon", "delta", "noise_multiplier", "unit", "relation", "sampler", "accountant"),
}

# What Orbax was reading or writing goes on in its threads after it has failed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def epsilon_of_gaussian(z, delta):
    """Balle and Wang 2018, theorem 8."""

    def excess(e):
        tail = math.exp(e) * stats.norm.cdf(-0.5 / z - e * z)
        return stats.norm.cdf(0.5 / z - e * z) - tail - delta

    return optimize.brentq(excess, 0, 100)


def rows_of(out):
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


slow = pytest.mark.slow  # whole runs: five to fifteen CPU seconds each


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("private") / "run"
    return train(out, *PRIVATE), out


@slow
def test_rows_tell_epsilon_with_what_it_depends_on(alone):
    """Two rounds of noise 2: exact, as nobody is sampled in secret."""
    summary, out = alone
    rows = rows_of(out)
    for row, rounds in ((rows[0], 1), (rows[1], 2), (summary, 2)):
        told = row["privacy"]
        assert set(told) >= TOLD
        expected = epsilon_of_gaussian(2.0 / math.sqrt(rounds), 0.01)
        np.testing.assert_allclose(told["epsilon"], expected, rtol=1e-6)
        assert (told["delta"], told["unit"], told["relation"]) == (0.01, "client", "zero_out")


@slow
def test_rows_withhold_what_is_not_noised_and_name_it(alone):
    summary, out = alone
    for row in rows_of(out):
        withheld = {"train_nats_per_byte", "accepted", "failed", "update_norm", "clients"}
        assert set(row["privacy"]["withheld"]) == withheld
        assert {row[name] for name in withheld} == {None}
        assert "uplink_bytes" in row["privacy"]["not_covered"]
    assert summary["failed"] is None
    assert summary["uplink_bytes"] > 0


@slow
def test_the_secret_is_nowhere_in_the_folder(alone):
    summary, out = alone
    text = SECRET.read_text().strip()
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert text.encode() not in data
            assert bytes.fromhex(text) not in data
    assert len(summary["contents"]["secret"]) == 64


@slow
def test_another_secret_gives_other_noise_and_is_refused_to_go_on_with(alone, tmp_path, capsys):
    summary, _ = alone
    other = tmp_path / "other"
    other.write_text("ab" * 32)
    told = train(tmp_path / "run", *PRIVATE, "--secret", str(other))
    assert told["digest"] != summary["digest"]
    again = train(tmp_path / "same", *PRIVATE)
    assert again["digest"] == summary["digest"]
    said = refused(
        capsys,
        *("train", *SMALL, *PRIVATE, "--out", str(tmp_path / "same"), "--resume"),
        *("--rounds", "3", "--secret", str(other)),
    )
    assert "secret: expected" in said


@slow
def test_a_stopped_run_goes_on_to_the_same_bits(alone, tmp_path):
    more = train(tmp_path / "whole", *PRIVATE, "--rounds", "3")
    train(tmp_path / "run", *PRIVATE)
    resumed = train(tmp_path / "run", *PRIVATE, "--rounds", "3", "--resume")
    assert resumed["digest"] == more["digest"]


@pytest.mark.slow
def test_other_configurations_have_noise_of_their_own(tmp_path, monkeypatch):
    """As the difference of two models with equal noise would be free of it."""
    keys = []
    prepare = training.prepare

    def kept(*args, **options):
        run = prepare(*args, **options)
        keys.append(tuple(np.asarray(run.private.secret.key("noise", 1)._base_array).tolist()))
        raise SystemExit(0)

    monkeypatch.setattr(training, "prepare", kept)
    for more in ([], ["--rounds", "9"], ["--seed", "1"], ["--uplink", "sign()"], ["--seq", "16"]):
        with pytest.raises(SystemExit):
            train(tmp_path / "run", *PRIVATE, *more)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    notes = tmp_path / "notes.jsonl"
    for last in ("e", "e", "f"):  # one file's name, whose fifth client changes
        rows = [{"text": f"{name} writes. " * 30, "user": name} for name in f"abcd{last}"]
        notes.write_text("".join(json.dumps(row) + "\n" for row in rows))
        read = f"jsonl('{notes}', fields(text='text', client='user'))"
        with pytest.raises(SystemExit):
            train(tmp_path / "run", *PRIVATE, "--data", read)
    assert keys[5] == keys[6]
    assert len(set(keys)) == 6


@slow
def test_poisson_sampling_is_told_by_name(tmp_path):
    told = train(
        tmp_path / "run",
        *("--aggregate", "adaptive_dp_fed_avg(noise_multiplier=2.0, count_noise=2.0, divisor=1.5)"),
        *("--secret", str(SECRET), "--delta", "0.01", "--sampler", "poisson(0.5)"),
        *("--clients", "4"),
    )
    assert told["privacy"]["relation"] == "add_or_remove"
    assert told["privacy"]["sampler"] == "poisson(0.5)"
    assert told["privacy"]["accountant"] == "pld"
    assert 0 < told["privacy"]["epsilon"] < epsilon_of_gaussian(2.0 / math.sqrt(2), 0.01)
    counts = [row["answers"] for row in rows_of(tmp_path / "run")]
    assert all(0 <= count <= 4 for count in counts)


@slow
def test_a_run_in_which_nobody_was_ever_drawn_has_a_summary(tmp_path):
    told = train(
        tmp_path / "run",
        *("--aggregate", "dp_fed_avg(clip=0.5, noise_multiplier=2.0, divisor=1.0)"),
        *("--secret", str(SECRET), "--delta", "0.01", "--sampler", "poisson(1e-9)"),
    )
    assert [row["answers"] for row in rows_of(tmp_path / "run")] == [0, 0]
    assert (told["uplink_bytes"], told["downlink_bits_per_parameter"]) == (0, 0)


@pytest.mark.slow
def test_runs_together_and_runs_without_dp_accounting_are_refused(capsys, tmp_path, monkeypatch):
    out = ("--out", str(tmp_path / "runs"))
    said = refused(capsys, "frontier", *SMALL, *PRIVATE, *out, "--seeds", "0", "1", "--together")
    assert "together: expected runs without noise for privacy" in said
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    said = refused(capsys, "train", *SMALL, *PRIVATE, *out)
    assert "pip install 'fedjax-llm[privacy]'" in said


def test_a_delta_of_one_client_in_all_warns(tmp_path, monkeypatch):
    def ended(*args, **options):
        raise SystemExit(0)

    monkeypatch.setattr(training, "open_run_folder", ended)
    with pytest.warns(UserWarning, match="delta: expected well below"), pytest.raises(SystemExit):
        train(tmp_path / "run", *PRIVATE, "--delta", "0.6")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--aggregate", RULE, "--delta", "0.01"], "secret: with dp_fed_avg"),
        (["--aggregate", RULE, "--secret", str(SECRET)], "delta: with dp_fed_avg"),
        (["--delta", "0.01"], "delta: expected none without noise"),
        (["--secret", str(SECRET)], "secret: expected none without noise"),
        ([*PRIVATE, "--delta", "1"], "delta: Account: delta: expected a number above 0"),
        ([*PRIVATE, "--secret", __file__], "secret: read_secret: path: expected"),
        ([*PRIVATE, "--sampler", "poisson(0.5)"], "such as divisor=2"),
        ([*PRIVATE, "--sampler", "cyclic(3)"], "sampler: cyclic: clients: expected at most 1"),
        ([*PRIVATE, "--algorithm", "ditto()"], "algorithm: expected a method of one model"),
        ([*PRIVATE, "--uplink", "ef21(sign())"], "aggregate: expected weighted_mean()"),
        (
            [
                *PRIVATE,
                "--link",
                "link(uplink=1e6, downlink=1e6)",
                "--deadline",
                "deadline(first=1)",
            ],
            "deadline: expected none with dp_fed_avg",
        ),
        (
            [*PRIVATE, "--link", "link(uplink=1e6, downlink=1e6)", "--buffer", "1"],
            "buffer: ",
        ),
        (
            ["--aggregate", "bucketing(dp_fed_avg(clip=1, noise_multiplier=1))"],
            "rule: expected a rule without noise",
        ),
        (["--algorithm", "scaffold()", "--sampler", "poisson(0.5)", "--buffer", "1"], "buffer: "),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(capsys, tmp_path, flags, said):
    assert said in refused(capsys, "train", *SMALL, "--out", str(tmp_path / "run"), *flags)
