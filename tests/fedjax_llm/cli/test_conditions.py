"""Faults and simulated time as they are typed, and what is refused of them."""

import json

import numpy as np
import pytest
from fedjax_compression import wire

from fedjax_llm import studies as frontier
from fedjax_llm.cli.main import main
from fedjax_llm.runs import RunConfig, prepare
from tests.helpers.commands import SMALL, refused, train

LINK = ("--link", "link(uplink=1e5, downlink=1e6, latency=0.05, step=0.1)")


@pytest.mark.slow
def test_rows_say_who_did_not_answer_and_when_a_round_was_over(tmp_path):
    out = tmp_path / "run"
    flags = ("--rounds", "4", "--clients", "3", "--faults", "faults(dropout=0.5, partial=0.5)")
    summary = train(out, *flags, *LINK)
    rows = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    own = wire.HEADER_BYTES + 4 * summary["trainable"]
    clock = 0.0
    for row in rows:
        fine = [name not in row["dropped"] for name in row["clients"]]
        assert row["answers"] == row["accepted"] == sum(fine)
        assert row["uplink_bytes"] == sum(fine) * own
        assert row["downlink_bytes"] == 3 * own
        steps = max(np.array(row["steps"])[fine], default=0)
        assert all(not s for s, f in zip(row["steps"], fine, strict=True) if not f)
        clock += 0.1 + 8 * own / 1e6 + (8 * own / 1e5 + 0.1 * steps) * any(fine)
        assert row["simulated_seconds"] == pytest.approx(clock)
        assert row["late"] == row["silent"] == []
    assert 0 < sum(row["answers"] for row in rows) < 12
    assert summary["simulated_seconds"] == rows[-1]["simulated_seconds"]
    assert summary["uplink_bits_per_parameter"] == 8 * own / summary["trainable"]


@pytest.mark.slow
def test_a_frontier_on_a_link_is_drawn_against_its_seconds(tmp_path, capsys):
    codecs = ("--codecs", "identity()", "eden(bits=1)")
    main(["frontier", *SMALL, *codecs, *LINK, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    plain, coded = (row["simulated_seconds"] for row in rows)
    assert coded < plain / 4
    assert "Held-out nats per byte against simulated seconds" in said
    assert f"{plain:.4g}" in said
    found = frontier.points(rows, frontier.SECONDS)
    assert [point.cost for point in found] == [plain, coded]
    for name in ("frontier.png", "seconds.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert frontier.cost_of([*rows, {}]) is frontier.BYTES


@pytest.mark.slow
def test_a_server_that_waits_for_no_one_runs_and_begins_again(tmp_path, capsys):
    flags = ("--buffer", "1", *LINK, "--faults", "faults(partial=1.0)", "--rounds", "3")
    first = train(tmp_path / "first", *flags)
    out = tmp_path / "first/rounds.jsonl"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["round"] for row in rows] == [1, 2, 3]
    assert sum(row["sent"] for row in rows) == 3 + 1  # two at work, each of two replaced
    assert sum(max(row["staleness"]) for row in rows) > 0
    assert first["uplink_bits_per_parameter"] == first["downlink_bits_per_parameter"] > 32
    assert not list((tmp_path / "first/checkpoints").iterdir())
    again = tmp_path / "again"
    again.mkdir()
    for name in ("run.json", "rounds.jsonl"):
        lines = (tmp_path / "first" / name).read_text().splitlines(keepends=True)
        (again / name).write_text("".join(lines[:2] if name == "rounds.jsonl" else lines))
    second = train(again, *flags, "--resume")
    assert second["digest"] == first["digest"]
    assert (again / "rounds.jsonl").read_bytes() == out.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--faults", "faults(dropout=2)"),
            "faults: faults: dropout: expected a number at least 0",
        ),
        (("--faults", "fault()"), "faults: expected one of faults, got 'fault' (did you mean fa"),
        (("--link", "link(uplink=1)"), "link: expected link("),
        (("--link", "links('nowhere.csv')"), "No such file or directory: 'nowhere.csv'"),
        (("--deadline", "deadline(first=1)"), "deadline: expected a link, such as link("),
        (("--availability", "diurnal(share=0.5)"), "availability: expected a link, such as link("),
        ((*LINK, "--deadline", "deadline(first=3)"), "expected first to be at most 2, the clients"),
        (
            (
                *("--clients", "4", "--algorithm", "rolora()", "--adapter", "lora(rank=2)"),
                *("--faults", "faults(dropout=0.1)"),
            ),
            "faults: rolora needs every client in every round, expected none, got faults(dropout",
        ),
        (
            ("--clients", "4", "--downlink", "ef21(eden(bits=2))", "--faults", "faults()"),
            "faults: fed_avg with downlink ef21(eden(bits=2)) needs every client in every round",
        ),
        (("--buffer", "0", *LINK), "buffer: expected at least 1, got 0"),
        (("--buffer", "1"), "buffer: expected a link, such as link("),
        (
            ("--buffer", "1", "--algorithm", "decomfl()", *LINK),
            "buffer: decomfl with uplink identity() and downlink identity() keeps a state that ans",
        ),
        (
            ("--buffer", "1", "--uplink", "ef21(top_k(fraction=0.1))", *LINK),
            "buffer: fed_avg with uplink ef21(top_k(fraction=0.1)) and downlink identity() keeps a",
        ),
        (
            ("--buffer", "1", "--client-axis", "vmap()", *LINK),
            "client_axis: with a buffer clients run one by one and no round waits for them, ex",
        ),
    ],
)
def test_conditions_that_cannot_be_are_refused_by_their_field(tmp_path, capsys, flags, message):
    assert message in refused(capsys, "train", *SMALL, *flags, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_split_method_is_refused_conditions():
    given = RunConfig(algorithm="split_lora()", adapter="lora(rank=2)", faults="faults()")
    with pytest.raises(ValueError, match="faults: split_lora needs the whole of every client"):
        prepare(given)
