"""Runs that sum integers as people type them."""

import json

import pytest

from tests.helpers.commands import SMALL, refused, train

SUMS = ["--uplink", "fixed_point(clip=0.001, clients=2)", "--aggregate", "secure_mean()"]


@pytest.mark.slow
def test_rows_count_the_clients_and_what_they_clipped(tmp_path):
    summary = train(tmp_path / "run", *SUMS, "--faults", "faults(dropout=0.5)", "--rounds", "3")
    lines = (tmp_path / "run/rounds.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all((row["clipped"] > 0) == (row["accepted"] > 0) for row in rows)
    assert summary["uplink_bytes"] == sum(row["uplink_bytes"] for row in rows)


@pytest.mark.slow
def test_malicious_clients_are_summed_like_others(tmp_path):
    """What they send is encoded like any update; a sum cannot tell it apart."""
    uplink = ["--uplink", "fixed_point(clip=10.0, bits=24, clients=2)"]
    honest = train(tmp_path / "honest", *SUMS, *uplink, "--rounds", "1")
    flipped = train(
        *(tmp_path / "flipped", *SUMS, *uplink, "--rounds", "1"),
        *("--attack", "sign_flip(fraction=0.4)"),
    )
    assert flipped["digest"] != honest["digest"]
    assert flipped["uplink_bytes"] == honest["uplink_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--aggregate", "secure_mean()", "--uplink", "eden(bits=1)"],
            "uplink: with secure_mean() expected a codec whose messages add up as integers, such "
            "as fixed_point(clip=1.0, clients=2), got eden(bits=1).",
        ),
        (
            [*SUMS, "--uplink", "fixed_point(clip=1.0, clients=1)"],
            "uplink: secure_mean: clients: expected at most 1, for whose sum the codec has room",
        ),
        ([*SUMS, "--prediction", "0.5"], "prediction: expected 0 with a rule that adds"),
        ([*SUMS, "--algorithm", "scaffold()"], "aggregate: "),
        ([*SUMS, "--link", "link(uplink=1e6, downlink=1e6)", "--buffer", "1"], "buffer: "),
        (["--aggregate", "norm_bound(1.0, secure_mean())"], "rule: expected a rule that combines"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(capsys, tmp_path, flags, said):
    assert said in refused(capsys, "train", *SMALL, "--out", str(tmp_path / "run"), *flags)
