"""What a run holds out and evaluates: by share, by name, from a file, within bounds, or nothing."""

import dataclasses
import json

import pytest

from fedjax_llm import RunConfig
from fedjax_llm.cli import main
from fedjax_llm.models import DecoderConfig
from fedjax_llm.runs import prepare
from fedjax_llm.studies import points, table
from tests.helpers.commands import refused
from tests.helpers.gguf_files import write_gguf

USERS = ("ada", "bob", "cyd", "test_1", "test_2")
TINY = DecoderConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
SMALL = (
    *("--rounds", "1", "--clients", "2", "--local-steps", "1", "--batch", "1", "--seq", "16"),
    *("--hidden-size", "8", "--intermediate-size", "8", "--num-hidden-layers", "1"),
    *("--num-attention-heads", "2"),
)
NOTHING = ("--heldout", "share(0)", "--unseen", "share(0)")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny model, notes of five users, two each, one user's one note, and text held out."""
    folder = tmp_path_factory.mktemp("files")
    write_gguf(folder / "tiny.gguf")
    for name, users, copies in (("two", USERS, 2), ("one", USERS, 1), ("held", ("eve",), 3)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for user in users:
                for number in range(copies):
                    text = f"{user} has {number} bees and more. " * 3
                    file.write(json.dumps({"user": user, "text": text}) + "\n")
    return folder


def data(files, name):
    return f"jsonl('{files / name}.jsonl', fields(text='text', client='user'))"


def config(files, name="two", *, model=True, **more):
    base = RunConfig(data=data(files, name), clients=2, seq=128, rounds=1, batch=1, local_steps=1)
    if not model:
        return dataclasses.replace(base, decoder=TINY, **more)
    return dataclasses.replace(base, model=str(files / "tiny.gguf"), adapter="lora(rank=1)", **more)


@pytest.mark.slow
def test_clients_of_two_texts_are_evaluated(files):
    """Less than ten examples each: one of the two is held out."""
    run = prepare(config(files))
    assert run.split.heldout.names == run.split.train.names == USERS
    assert run.split.heldout.pieces().tolist() == [1] * 5
    assert run.evaluated.heldout.names == USERS


def test_an_evaluation_that_would_be_empty_is_refused_before_anything_is_written(
    files, tmp_path, capsys
):
    flags = ["--model", str(files / "tiny.gguf"), "--adapter", "lora(rank=1)", "--clients", "2"]
    flags += ["--data", data(files, "one"), "--seq", "128", "--out", str(tmp_path / "out")]
    error = refused(capsys, "train", *flags)
    assert "heldout: expected held-out text or unseen clients to evaluate, got none" in error
    assert 'train without evaluation by --heldout "share(0)" --unseen "share(0)"' in error
    error = refused(capsys, "frontier", *flags, "--unseen", "last(1)")
    assert "heldout: expected held-out text, by which codecs are compared, got none" in error
    assert not (tmp_path / "out").exists()
    assert prepare(config(files, "one", unseen="last(1)")).evaluated.unseen.names == ("test_2",)


@pytest.mark.slow
def test_nothing_measured_is_blank(files, tmp_path, capsys):
    flags = ("--data", data(files, "two"), *SMALL, *NOTHING, "--out", str(tmp_path))
    main(["train", *flags])
    shown = capsys.readouterr().out
    assert "inf" not in shown
    assert "nan" not in shown
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert not [name for name in summary if "nats" in name]
    assert summary["unseen_clients"] == []
    (point,) = points([summary])
    assert point.nats is point.lowest is point.highest is point.unseen_nats is None
    assert not point.on_front


def test_a_run_that_diverged_is_told_from_one_that_was_not_measured():
    row = {"codec": "identity()", "uplink_bytes": 8, "uplink_bits_per_parameter": 32.0}
    row |= {"seconds": 1.0, "heldout_nats_per_byte": None}
    cells = [list(column.cells) for column in table([row]).columns]
    assert [column[0] for column in cells][5:8] == ["diverged", "", ""]


@pytest.mark.parametrize(
    ("unseen", "names"),
    [
        ("named('cyd', 'ada')", ["ada", "cyd"]),
        ("matching('test_*')", ["test_1", "test_2"]),
        ("last(1)", ["test_2"]),
        ("share(0)", []),
    ],
)
def test_unseen_clients_are_the_users_to_say_whatever_the_seed(files, unseen, names):
    for seed in (0, 7):
        run = prepare(config(files, model=False, unseen=unseen, seed=seed))
        assert list(run.split.unseen_clients.names) == names
        assert set(run.split.train.names) == set(USERS) - set(names)


@pytest.mark.slow
def test_a_file_of_held_out_text_is_evaluated_and_named(files, tmp_path):
    """The clients keep all of their text, and the file is part of what the run is known by."""
    held = data(files, "held")
    run = prepare(config(files, heldout=held))
    assert run.split.heldout.names == run.evaluated.heldout.names == ("eve",)
    assert run.split.train.pieces().tolist() == [2] * 5
    assert "heldout" in run.contents
    flags = ("--data", data(files, "two"), *SMALL, "--heldout", held, "--unseen", "last(2)")
    main(["train", *flags, "--baselines", "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["unseen_clients"] == ["test_1", "test_2"]
    assert summary["heldout_evaluated"]["clients"] == 1
    assert summary["heldout_nats_per_byte"] > 0
    assert summary["baselines"].keys() == {"untrained", "local", "centralised"}
    assert "heldout_nats_per_byte" not in summary["baselines"]["local"]  # eve trains nothing


@pytest.mark.slow
def test_evaluations_are_bounded_by_flags(files, tmp_path):
    flags = ("--data", data(files, "two"), *SMALL, "--heldout", "share(0.5)")
    limits = ("--evaluate-rows", "2", "--evaluate-clients", "2", "--unseen", "matching('test_*')")
    main(["train", *flags, *limits, "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    for name, of in (("heldout", 3), ("unseen", 2)):
        sizes = summary[f"{name}_evaluated"]
        assert (sizes["clients"], sizes["clients_of"]) == (2, of)
        assert sizes["rows"] <= 4 < sizes["rows_of"]
        assert summary[f"{name}_nats_per_byte"] > 0
    assert RunConfig().evaluate_clients == 1000
    assert prepare(config(files)).config.evaluate_rows == 2**17 // 128
    assert prepare(config(files, model=False)).config.evaluate_rows == 2**20 // 128


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--unseen", "share(1)"), "unseen: share: share: expected a number at least 0 and below"),
        (("--unseen", "named('eve')"), "unseen: hold_out: clients: expected names of clients, got"),
        (("--unseen", "matching('x*')"), "unseen: matching: pattern: expected one that a client"),
        (("--unseen", "half()"), "unseen: expected one of last, matching, named, share, got 'h"),
        (("--heldout", "share(-1)"), "heldout: share: share: expected a number at least 0"),
        (("--heldout", "jsonl('no.jsonl', fields(text='a'))"), "No such file or directory"),
        (("--evaluate-rows", "0"), "evaluate_rows: expected at least 1, got 0"),
        (("--evaluate-clients", "0"), "evaluate_clients: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(files, tmp_path, capsys, flags, message):
    args = ("--data", data(files, "two"), *SMALL, "--out", str(tmp_path / "out"), *flags)
    assert message in refused(capsys, "train", *args)
    assert not (tmp_path / "out").exists()
