"""The command as it is typed: what it leaves behind, and what it refuses."""

import json

import pytest

from fedjax_llm.cli import codecs as codecs_command
from fedjax_llm.cli.main import main
from tests.helpers.commands import ROLES, SMALL, refused, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    return out, train(
        out, "--uplink", "eden( bits=2 )", "--downlink", "stochastic_quantize(bits=8)"
    )


@pytest.mark.slow
def test_a_run_leaves_its_rounds_and_a_summary(trained):
    out, summary = trained
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rounds] == [1, 2]
    assert summary["codec"] == "eden(bits=2)"
    for direction in ("uplink_bytes", "downlink_bytes"):
        assert summary[direction] == sum(row[direction] for row in rounds) > 0
    assert summary["uplink_bytes"] * 2 < summary["downlink_bytes"] * 1.1
    assert len(summary["digest"]) == 64
    assert 3 < summary["heldout_nats_per_byte"] < 6
    assert 2 < summary["heldout_bigram_nats_per_byte"] < 4
    assert set(rounds[0]["clients"]) <= set(ROLES)
    assert summary["unit"] == "byte"
    names = [name for row in (summary, *rounds) for name in row if "nats_per_" in name]
    assert not [name for name in names if "nats_per_byte" not in name]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_digest(trained, tmp_path):
    out, summary = trained
    codecs = ("--uplink", "eden(bits=2)", "--downlink", "stochastic_quantize(bits=8)")
    again = train(tmp_path / "again", *codecs)
    other = train(tmp_path / "other", *codecs, "--seed", "1")
    timed = ("seconds",)
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in summary.items() if k not in timed
    }
    assert (tmp_path / "again/rounds.jsonl").read_bytes() == (out / "rounds.jsonl").read_bytes()
    assert other["digest"] != summary["digest"]


@pytest.mark.slow
def test_memory_at_both_ends_runs_and_a_prediction_travels(tmp_path):
    flags = ("--uplink", "ef21(top_k(fraction=0.1))", "--clients", "4")
    both = train(tmp_path / "both", *flags, "--downlink", "ef21(eden(bits=2))")
    assert both["failed"] == 0
    plain = train(tmp_path / "plain", "--uplink", "eden(bits=2)")
    known = train(tmp_path / "known", "--uplink", "eden(bits=2)", "--prediction", "0.5")
    assert known["uplink_bytes"] == plain["uplink_bytes"]
    messages = 2 * 2  # rounds of clients; each has four bits an entry, two scales and a seed
    assert plain["trainable"] <= 2 * 4096
    more = (plain["trainable"] // 2 + 2 * 4 + 4) * messages
    assert known["downlink_bytes"] == plain["downlink_bytes"] + more


@pytest.mark.long
@pytest.mark.parametrize(
    ("algorithm", "flags"),
    [
        ("scaffold()", ()),
        ("q_fed_avg(q=1)", ()),
        ("sparse_loco(chunk=64)", ()),
        ("demo(rate=0.001)", ()),
        ("fed_nova()", ("--client-optimizer", "sgd(0.5, momentum=0.9)")),
        ("fed_kseed(seeds=64)", ()),
        ("decomfl(draws=2)", ()),
        ("spry()", ()),
        ("ditto(mu=0.5)", ()),
        ("fed_rep(personal='^norm')", ()),
    ],
)
def test_other_algorithms_take_their_own_flags(tmp_path, algorithm, flags):
    summary = train(tmp_path / "run", "--algorithm", algorithm, *flags)
    assert summary["algorithm"] == algorithm
    assert summary["failed"] == 0
    assert 3 < summary["heldout_nats_per_byte"] < 6
    personal = algorithm.startswith(("ditto", "fed_rep"))
    assert ("personal_nats_per_byte" in summary) == personal
    own = 4 * summary["trainable"]  # bytes of one copy
    sent = summary["uplink_bytes"] / 4  # rounds of clients
    least, most = {
        "scaffold()": (2 * own, 2 * own + 12),
        "q_fed_avg(q=1)": (own + 16, own + 16),
        "sparse_loco(chunk=64)": (0, own / 20),
        "demo(rate=0.001)": (0, own / 20),
        "fed_nova()": (own + 4, own + 16),
        "fed_kseed(seeds=64)": (12 + 2 + 8, 12 + 2 + 8),  # two steps: 12 bits, two slopes
        "decomfl(draws=2)": (12 + 16, 12 + 16),
        "spry()": (12 + 14, 12 + 14),
        "ditto(mu=0.5)": (own + 12, own + 12),
        "fed_rep(personal='^norm')": (own - 4 * 16 + 12, own - 4 * 16 + 12),
    }[algorithm]
    assert least <= sent <= most


@pytest.mark.slow
def test_clients_that_tell_each_other_what_they_expect_send_no_parameter(tmp_path):
    data = ("--data", "shakespeare(at_least=30000)")  # eleven roles, one of them set aside
    summary = train(tmp_path / "run", "--algorithm", "fed_md(top=4)", *data)
    each = 12 + 2 * 32 * 4 * (1 + 4)  # at 2 x 32 places four bytes of text and their probabilities
    assert summary["uplink_bytes_by_round"] == [2 * each] * 2
    assert summary["downlink_bytes_by_round"] == [2 * (each + 8)] * 2
    assert 2 <= summary["personal_models"] <= 4
    assert summary["personal_nats_per_byte"] < summary["heldout_nats_per_byte"]


@pytest.mark.slow
def test_epochs_are_refused_where_all_clients_must_take_as_many_steps(tmp_path, capsys):
    steps = SMALL.index("--local-steps")
    small = [*SMALL[:steps], "--local-epochs", "1", *SMALL[steps + 2 :]]
    error = refused(capsys, "train", *small, "--algorithm", "decomfl()", "--out", str(tmp_path))
    assert "decomfl takes as many steps of every client, expected local_steps, got 1 ep" in error


@pytest.mark.slow
def test_lora_epochs_and_other_axes_run(tmp_path):
    small = [
        *(
            "--rounds",
            "1",
            "--clients",
            "3",
            "--local-epochs",
            "1",
            "--batch",
            "64",
            "--seq",
            "128",
        ),
        *SMALL[10:],
    ]
    flags = (
        "--adapter",
        "lora(rank=2)",
        "--client-axis",
        "chunked(2)",
        "--out",
        str(tmp_path / "l"),
    )
    main(["train", *small, *flags])
    summary = json.loads((tmp_path / "l/summary.json").read_text())
    assert summary["trainable"] == 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 24))
    assert summary["config"]["client_axis"] == "chunked(2)"


@pytest.mark.slow
def test_a_sweep_leaves_rows_and_a_picture_and_goes_on_where_it_stopped(tmp_path, capsys):
    out = tmp_path / "sweep"
    flags = ["frontier", *SMALL, "--out", str(out)]
    main([*flags, "--codecs", "identity()"])
    first = (out / "results.jsonl").read_bytes()
    assert (out / "frontier.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    main([*flags, "--codecs", "identity", "eden(bits=1)", "--seeds", "0", "1"])
    after = (out / "results.jsonl").read_bytes()
    assert after.startswith(first)
    rows = [json.loads(line) for line in after.splitlines()]
    assert [(row["codec"], row["seed"]) for row in rows] == [
        ("identity()", 0),
        ("eden(bits=1)", 0),
        ("identity()", 1),
        ("eden(bits=1)", 1),
    ]
    shown = capsys.readouterr().out
    assert "eden(bits=1)" in shown
    assert "byte bigram" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--uplink", "edn(bits=1)"),
            "uplink: codec 'edn(bits=1)': expected one of adaptive, bfloat16",
        ),
        (
            ("--downlink", "ef21(top_k(fraction=0.1))"),
            "algorithm: fed_avg with downlink ef21(top_k(fraction=0.1)) needs every client in ev",
        ),
        (
            ("--prediction", "1.5"),
            "algorithm: fed_avg: prediction: expected a number at least 0 and at most 1, got 1.5",
        ),
        (
            ("--prediction", "0.5", "--uplink", "ef21(top_k(fraction=0.1))"),
            "prediction: expected 0 with an uplink that has receiver memory",
        ),
        (
            ("--uplink", "eden(bits=7)"),
            "eden: bits: expected a number above 0 and at most 4, got 7",
        ),
        (("--downlink", "eden(bit=1)"), "downlink: codec 'eden(bit=1)': expected eden(bits)"),
        (("--algorithm", "fed_agv"), "got 'fed_agv' (did you mean fed_avg?)"),
        (
            ("--algorithm", "sparse_loco()", "--uplink", "eden(bits=1)"),
            "uplink: sparse_loco takes none, expected identity(), got eden(bits=1)",
        ),
        (
            ("--algorithm", "fed_sgd()", "--client-optimizer", "adam(0.1)"),
            "client_optimizer: fed_sgd takes none, expected None, got adam(0.1)",
        ),
        (
            ("--algorithm", "fed_kseed()", "--uplink", "eden(bits=1)"),
            "uplink: fed_kseed takes none, expected identity(), got eden(bits=1); what its clients "
            "send are slopes along seeded directions",
        ),
        (
            ("--algorithm", "fed_kseed()", "--client-optimizer", "adam(0.1)"),
            "algorithm: fed_kseed: client_optimizer: expected optax.sgd(rate) with one rate",
        ),
        (
            ("--algorithm", "fed_nova()"),
            "algorithm: fed_nova: client_optimizer: expected an optimizer that is linear",
        ),
        (
            ("--algorithm", "fed_md()"),
            "algorithm: fed_md() asks clients about the text of those set aside, one of ten; "
            "expected batch=2 windows of seq=32 tokens there, got 0",
        ),
        (("--client-axis", "chunked(0)"), "client_axis: chunked: size: expected an integer"),
        (("--client-optimizer", "adamm(0.1)"), "client_optimizer: expected one of adagrad"),
        (("--server-optimizer", "sgd()"), "server_optimizer: expected sgd(learning_rate"),
        (("--adapter", "lora(rank=0)"), "adapter: lora: rank: expected an integer at least 1"),
        (("--rounds", "0"), "rounds: expected at least 1, got 0"),
        (("--clients", "9"), "clients: expected 1 to 4, the number of training clients, got 9"),
        (("--seed", "-1"), "seed: expected 0 to"),
        (("--seq", "0"), "Batching: seq: expected an integer at least 1, got 0"),
        (("--local-epochs", "1"), "Batching: steps, epochs: expected one of the two, got"),
        (("--vocab-size", "100"), "vocab_size: expected at least 256"),
        (("--data", "chitchatt"), "data: expected one of alpaca, alpaca_pairs, chitchat"),
        (("--data", "fields(text='a')"), "data: expected clients' text, got \"fields(text='a')\""),
        (("--data", "chitchat()"), "model: expected a pretrained model, whose tokenizer can write"),
        (("--data", "jsonl('no.jsonl', fields(text='a'))"), "No such file or directory: 'no"),
        (("--population", "5"), "population: expected 1 to 4, the number of clients, got 5"),
        (("--model", "nowhere"), "hidden_size: expected none beside --model, whose own is used"),
        (("--hidden-size", "15"), "DecoderConfig: hidden_size: expected a multiple of"),
        (
            ("--data", "shakespeare(roles='hamlet/YORICK')"),
            "data: shakespeare: roles: expected a role such as hamlet/HAMLET, got 'hamlet/YORICK'",
        ),
        (
            ("--data", "shakespeare(roles='hamlet/OSRIC', at_least=99999)"),
            "hamlet/OSRIC: expected at least 99999",
        ),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(capsys, tmp_path, flags, message):
    error = refused(capsys, "train", *SMALL, "--out", str(tmp_path / "out"), *flags)
    assert error.startswith("fedjax-llm: ")
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "frontier"])
def test_a_file_is_no_folder(capsys, tmp_path, command):
    out = tmp_path / "file"
    out.write_text("precious")
    error = refused(capsys, command, *SMALL, "--out", str(out))
    assert str(out) in error
    assert "expected a folder" in error
    assert out.read_text() == "precious"


@pytest.mark.slow
def test_a_folder_with_a_run_is_not_written_over(capsys, trained):
    out, _ = trained
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "expected a folder without a run" in refused(capsys, "train", *SMALL, "--out", str(out))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "tail", ['{"codec": "eden(bits=1)", "se', '{"codec": "x"', "[1]\n", "\xff\xfe\n", "\n"]
)
def test_a_results_file_cut_in_a_line_is_refused_and_kept(capsys, tmp_path, tail):
    results = tmp_path / "results.jsonl"
    content = b'{"config": {}, "codec": "x"}\n' + tail.encode("latin-1")
    results.write_bytes(content)
    flags = ("--codecs", "identity()", "--out", str(tmp_path))
    error = refused(capsys, "frontier", *SMALL, *flags)
    assert f"{results}: line 2: expected a whole JSON object" in error
    assert results.read_bytes() == content


def test_a_row_without_a_configuration_is_refused(capsys, tmp_path):
    (tmp_path / "results.jsonl").write_text('{"codec": "x"}\n')
    flags = ("--codecs", "identity()", "--out", str(tmp_path))
    error = refused(capsys, "frontier", *SMALL, *flags)
    assert "line 1: expected a row with config" in error


@pytest.mark.long
def test_codecs_are_measured_on_every_source(tmp_path, capsys):
    texts = ("eden(bits=1)", "entropy_coded(rate=1)")
    flags = ["codecs", "--codecs", *texts, "--entries", "16384", "--out", str(tmp_path)]
    main([*flags, "--speed", "--no-means"])
    assert not (tmp_path / "means.jsonl").exists()
    rows = [json.loads(line) for line in (tmp_path / "codecs.jsonl").read_text().splitlines()]
    assert [row["codec"] for row in rows] == [texts[0]] * 3 + [texts[1]] * 3
    errors = {(row["codec"], row["source"]): row["error"] for row in rows}
    assert errors["eden(bits=1)", "Gaussian"] == pytest.approx(0.571, rel=0.03)
    assert errors["entropy_coded(rate=1)", "AdamW update"] < 0.25
    for row in rows:
        assert row["bits_per_entry"] == 8 * row["bytes"] / row["entries"]
        assert row["bits_per_entry"] == pytest.approx(1, abs=0.02)
        assert row["encode_entries_per_second"] > 0
        assert 0.01 < row["vmap_over_loop"] < 100
    shown = capsys.readouterr().out
    assert "Student t" in shown
    assert f"On {row['threads']} thread" in shown
    assert (tmp_path / "codecs.png").read_bytes().startswith(b"\x89PNG")
    assert "expected a folder without results" in refused(capsys, *flags)


@pytest.mark.long
def test_codecs_are_measured_by_the_error_of_the_mean(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(codecs_command, "ROUNDS", (2,))  # of three, to save time
    texts = ("eden(bits=0.25)", "preconditioned(trellis_fixed(bits=0.25))")
    main(["codecs", "--codecs", *texts, "--entries", "4096", "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "means.jsonl").read_text().splitlines()]
    errors = {(row["codec"], row["round"]): row["error_of_mean"] for row in rows}
    assert set(errors) == {(text, 2) for text in texts}
    assert errors[texts[1], 2] < 0.4 * errors[texts[0], 2]
    shown = capsys.readouterr().out
    assert shown.index("Error of the mean of 32 clients' updates") < shown.index("Student t")
    assert (tmp_path / "codecs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--codecs", "edn(bits=1)"),
            "codec 'edn(bits=1)': expected one of adaptive, bfloat16",
        ),
        (("--entries", "0"), "entries: expected at least 1, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, tmp_path, flags, message):
    assert message in refused(capsys, "codecs", *flags, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_that_diverges_is_reported(tmp_path, capsys):
    summary = train(tmp_path / "nan", "--client-optimizer", "sgd(1e30)")
    assert "seed 0: 4 updates were not finite and were left out." in capsys.readouterr().out
    assert summary["failed"] == 4
    assert summary["heldout_nats_per_byte"] > 0  # the server kept the model that it had
