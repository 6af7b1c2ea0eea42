"""Components of one's own on the command line and in Python: plugins, objects, declared needs."""

import json
import re
import sys
from dataclasses import replace

import optax
import pytest
from fedjax_compression import eden, registry

import fedjax_llm
from fedjax_llm import Method, Named, RunConfig, attacks, fed_avg, frontier
from fedjax_llm.aggregators import registry as aggregators
from fedjax_llm.algorithms import registry as methods
from fedjax_llm.cli import main
from fedjax_llm.data import registry as data
from fedjax_llm.models import DecoderConfig
from fedjax_llm.runs import prepare
from tests.helpers.commands import ROLES, SMALL, refused, train

PLUGIN = ("--plugin", "tests.helpers.a_plugin")
TINY = RunConfig(
    rounds=2,
    clients=2,
    local_steps=2,
    batch=2,
    seq=32,
    decoder=DecoderConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1),
    data=f"shakespeare(roles='{', '.join(ROLES)}')",
)


@pytest.fixture(autouse=True)
def _registries_as_before():
    """What a test registers is gone after it, and a plugin is imported anew."""
    tables = (registry.FACTORIES, methods.METHODS, aggregators.AGGREGATORS, data.DATA)
    before = [dict(table) for table in tables]
    yield
    for table, names in zip(tables, before, strict=True):
        table.clear()
        table.update(names)
    sys.modules.pop("tests.helpers.a_plugin", None)


@pytest.mark.slow
def test_a_plugins_codec_method_aggregator_and_data_run_beside_ours(tmp_path):
    own = ("--uplink", "half()", "--algorithm", "small_server_steps()")
    row = train(tmp_path / "own", *PLUGIN, *own, "--data", "notes()")
    plain = train(tmp_path / "plain", *PLUGIN, "--data", "notes()", "--aggregate", "plain_mean()")
    assert row["codec"] == "half()"
    assert row["uplink_bytes"] * 1.9 < plain["uplink_bytes"]  # headers are not halved
    assert row["digest"] != plain["digest"]


@pytest.mark.slow
def test_a_parameter_of_ones_own_may_have_the_name_of_a_need(tmp_path):
    """`steps` and `scale` of the method are not the run's: only declared needs are passed."""
    args = (*PLUGIN, "--algorithm", "small_server_steps(steps=5, scale=2.0)")
    assert train(tmp_path / "run", *args)["algorithm"] == "small_server_steps(scale=2.0, steps=5)"


@pytest.mark.slow
def test_frontier_takes_a_plugins_codec(tmp_path):
    main(["frontier", *SMALL, *PLUGIN, "--codecs", "identity()", "half()", "--out", str(tmp_path)])
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["codec"] for row in rows] == ["identity()", "half()"]
    assert rows[1]["uplink_bytes"] < 0.6 * rows[0]["uplink_bytes"]


@pytest.mark.slow
def test_frontier_from_python_takes_objects_and_finds_its_rows_again(tmp_path):
    codecs = {"identity()": registry.codec("identity()"), "mine(bits=1)": eden(bits=1)}
    rows = frontier(TINY, codecs, out=tmp_path)
    assert [row["codec"] for row in rows] == ["identity()", "mine(bits=1)"]
    ours = frontier(TINY, ["eden(bits=1)"], out=tmp_path / "ours")
    assert rows[1]["digest"] == ours[0]["digest"]
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "results.jsonl").read_bytes()
    assert frontier(TINY, codecs, out=tmp_path) == json.loads(json.dumps(rows))
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_run_takes_objects_with_their_text():
    config = RunConfig(
        **{field: getattr(TINY, field) for field in ("rounds", "clients", "batch", "data")},
        decoder=TINY.decoder,
        uplink=Named("mine()", eden(bits=1)),
        client_optimizer=Named("slow()", optax.sgd(0.1)),
        algorithm=Named("ours()", Method(fed_avg, needs=("client_optimizer", "uplink"))),
    )
    run = prepare(config)
    assert (run.config.uplink, run.config.algorithm) == ("mine()", "ours()")
    assert run.config.client_optimizer == "slow()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ("--plugin", "no_such_module_here"),
            "plugin: expected a module that can be imported, got 'no_such_module_here'",
        ),
        (("--uplink", "half()"), "uplink: codec 'half()': expected one of adaptive"),
        (("--algorithm", "fed_avgg()"), "(did you mean fed_avg?)"),
        (
            ("--algorithm", "scaffold()", "--aggregate", "weighted_mean()"),
            "aggregate: scaffold takes none, expected None, got weighted_mean()",
        ),
        (
            ("--algorithm", "fed_kseed()", "--attack", "sign_flip(fraction=0.5)"),
            "attack: fed_kseed has no codec of updates, expected an attack on data such as",
        ),
        (
            ("--prediction", "0.5", "--attack", "sign_flip(fraction=0.5)"),
            "prediction: expected 0 with sign_flip(fraction=0.5), which attacks whole updates",
        ),
        (
            ("--attack", f"backdoor(fraction=0.5, trigger='{'x' * 40}', target='y')"),
            "seq: expected at least 40, the tokens of the backdoor's trigger and target less one, "
            "got 32",
        ),
        (
            ("--attack", "neurotoxin(ipm(fraction=0.5))", "--algorithm", "scaffold()"),
            "algorithm: scaffold: uplink: expected a codec that knows nothing but the update",
        ),
        (("--attack", "alie(fraction=1)"), "attack: alie: fraction: expected a number above 0"),
        (
            ("--aggregate", "krum(f=9)"),
            "aggregate: krum: clients: expected a cohort of at least 21 clients (n >= 2 f + 3)",
        ),
        (
            ("--aggregate", "dp_fed_avg(clip=1.0, noise_multiplier=1.0, groups='attentoin')"),
            "aggregate: clip_rows: groups: expected a part of a path of leaves",
        ),
        (("--aggregate", "dp_fed_avg(clip=1.0, noise_multiplier=1.0, groups='mlp,')"), "groups: "),
        (("--aggregate", "medain()"), "sign_majority, trimmed_mean, weighted_mean, got 'medain'"),
    ],
)
def test_what_cannot_be_found_is_refused_by_name(args, said, tmp_path, capsys):
    assert said in refused(capsys, "train", *SMALL, *args, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_attack_on_data_is_tried_before_a_run_begins(tmp_path):
    path = tmp_path / "unsafe.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answer": "x" * 40}))
    attack = f"unsafe_instructions(fraction=0.5, path='{path}')"
    said = "attack: unsafe_instructions: seq: expected windows of at least 42 tokens.*got 16"
    with pytest.raises(ValueError, match=said):
        prepare(replace(TINY, seq=16, unseen="share(0.0)", attack=attack))


def test_an_attack_with_tokens_beyond_the_vocabulary_is_refused():
    backdoor = Named("mine()", attacks.backdoor(0.5, trigger=[300], target="y"))
    with pytest.raises(ValueError, match="attack: expected tokens below 256, the vocabulary, got"):
        prepare(replace(TINY, unseen="share(0.0)", attack=backdoor))


@pytest.mark.slow
@pytest.mark.parametrize("room", [registry, methods, aggregators, data])
def test_names_are_registered_once_and_are_identifiers(room):
    def factory():
        raise NotImplementedError

    room.register("fresh_name", factory)
    room.register("fresh_name", factory)
    with pytest.raises(ValueError, match="expected one that is not in use, got 'fresh_name'"):
        room.register("fresh_name", lambda: None)
    with pytest.raises(ValueError, match="expected an identifier, got 'two words'"):
        room.register("two words", factory)


@pytest.mark.slow
def test_a_run_names_its_malicious_clients_and_resumes_with_the_same_attack(tmp_path, capsys):
    args = ("--attack", "alie(fraction=0.5, z=1.0)", "--aggregate", "median()")
    out = tmp_path / "run"
    summary = train(out, *args)
    assert summary["config"]["attack"] == "alie(fraction=0.5, z=1.0)"
    rows = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert all(set(row["malicious"]) <= set(row["clients"]) for row in rows)
    assert any(row["malicious"] for row in rows)
    other = ("--attack", "alie(fraction=0.5, z=2.0)", "--aggregate", "median()", "--resume")
    assert "attack" in refused(capsys, "train", *SMALL, *other, "--out", str(out))


@pytest.mark.long
@pytest.mark.parametrize(
    "attack",
    [
        "backdoor(factor=4, fraction=0.5, poison=1.0, target='yes', trigger='moon ')",
        "neurotoxin(distributed_backdoor(fraction=0.5, parts=2, target='yes', trigger='moon '))",
        "sybils(backdoor(fraction=0.5, target='yes', trigger='moon '), std=0.01)",
    ],
)
def test_a_backdoors_success_is_in_rows_and_summary_beside_the_clean_loss(attack, tmp_path):
    summary = train(tmp_path / "run", "--attack", attack, "--evaluate-every", "1")
    rows = [json.loads(line) for line in (tmp_path / "run/rounds.jsonl").read_text().splitlines()]
    for row in (*rows, summary):
        assert 0 <= row["heldout_backdoor"] <= 1
        assert row["heldout_nats_per_byte"] > 0
    plain = train(tmp_path / "plain", "--attack", "sign_flip(fraction=0.5)")
    assert "heldout_backdoor" not in plain
    assert summary["uplink_bytes"] == plain["uplink_bytes"]
    assert (summary["downlink_bytes"] > plain["downlink_bytes"]) == ("neurotoxin" in attack)


@pytest.mark.slow
def test_fl_trust_trains_on_the_text_of_the_clients_set_aside(tmp_path, capsys):
    summary = train(tmp_path / "run", "--algorithm", "fl_trust()", "--unseen", "share(0.25)")
    plain = train(tmp_path / "plain", "--unseen", "share(0.25)")
    assert summary["digest"] != plain["digest"]
    assert summary["uplink_bytes"] == plain["uplink_bytes"]
    assert summary["downlink_bytes"] == plain["downlink_bytes"]
    assert len(summary["unseen_clients"]) == 1
    capsys.readouterr()  # the progress of a slow machine
    for args, said in (
        (
            ("--unseen", "share(0)"),
            "unseen: fl_trust() trains at the server on the text of clients",
        ),
        (("--adapter", "lora(rank=2)"), "adapter: fl_trust() trains at the server too"),
    ):
        out = ("--out", str(tmp_path / "no"))
        assert said in refused(capsys, "train", *SMALL, "--algorithm", "fl_trust()", *args, *out)


def test_needs_are_out_of_a_closed_set():
    with pytest.raises(ValueError, match=r"needs: expected some of client_optimizer.*got 'stepz'"):
        methods.register("other", Method(fed_avg, needs=("stepz",)))


def test_help_lists_every_name_that_a_text_may_take(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = capsys.readouterr().out
    said = said[said.index("Names that") :]
    lines = dict(re.findall(r"^  (\w+) +(\S.*)$", said, re.MULTILINE))
    for name in (*registry.FACTORIES, *methods.METHODS, "shakespeare", "lora", "adam", "faults"):
        assert lines[name], name
    assert max(map(len, said.splitlines())) <= 100


def test_the_version_is_said(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"fedjax-llm {fedjax_llm.__version__}\n"
