"""A run is known by the content of what it read: a change is refused by name, and nothing mixes."""

import hashlib
import json

import jax.random as jr
import pytest

from fedjax_llm import RunConfig, language_model
from fedjax_llm.adapters import export_adapter, import_adapter, lora
from fedjax_llm.cli import main
from fedjax_llm.data import Example
from fedjax_llm.models import DecoderConfig
from fedjax_llm.runs import prepare
from fedjax_llm.runs.contents import adapter_digest, check_contents, records_digest
from fedjax_llm.studies import points
from tests.helpers.commands import refused
from tests.helpers.gguf_files import write_gguf

USERS = ("ada", "bob", "cyd", "dan")
TINY = DecoderConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
SMALL = (
    *("--clients", "2", "--local-steps", "1", "--batch", "1", "--seq", "16"),
    *("--hidden-size", "8", "--intermediate-size", "8", "--num-hidden-layers", "1"),
    *("--num-attention-heads", "2"),
)


def write_notes(path, word="bees"):
    lines = ({"user": user, "text": f"{user} has {word} and more. " * 9} for user in USERS)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"jsonl('{path}', fields(text='text', client='user'))"


def contents(data, **more):
    return prepare(RunConfig(data=data, clients=2, seq=16, decoder=TINY, **more)).contents


def test_data_have_the_digest_of_their_records_alone(tmp_path):
    """Not of the file's name, the order of its lines, or the seed."""
    found = contents(write_notes(tmp_path / "notes.jsonl"))
    lines = (tmp_path / "notes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "turned.jsonl").write_text("".join(reversed(lines)))
    turned = f"jsonl('{tmp_path / 'turned.jsonl'}', fields(text='text', client='user'))"
    assert contents(turned, seed=3, population=3) == found
    assert found.keys() == {"data"}
    other = contents(write_notes(tmp_path / "notes.jsonl", "beds"))
    assert other["data"] != found["data"]


def test_the_digest_is_that_of_the_json_text_of_all_records():
    records = {"bob": [Example("b")], "ann": [Example("ä", "label"), Example("c"), Example("d")]}
    state = hashlib.sha256()
    for client in sorted(records):
        each = [[record.text, record.label, "", []] for record in records[client]]
        state.update(json.dumps([client, each]).encode())
    assert records_digest(records, who="data") == state.hexdigest()


@pytest.mark.parametrize(
    ("field", "name", "text", "more"),
    [
        ("link", "links.csv", "client,uplink,downlink\n{}", {}),
        (
            "availability",
            "trace.csv",
            "client,start,end\n{}",
            {"link": "link(uplink=1e6, downlink=1e6)"},
        ),
    ],
)
def test_tables_of_clients_have_a_digest_that_no_seed_changes(tmp_path, field, name, text, more):
    data = write_notes(tmp_path / "notes.jsonl")
    call = {"link": "links", "availability": "trace"}[field]

    def digest(rows, **also):
        (tmp_path / name).write_text(text.format("\n".join(rows)))
        return contents(data, **{field: f"{call}('{tmp_path / name}')"}, **more, **also)[field]

    rows = [f"{user},1,{1000 + len(user)}" for user in USERS]
    found = digest(rows)
    assert digest(rows[::-1], seed=5, population=3) == found
    assert digest([*rows[:3], "dan,1,999"]) != found


@pytest.mark.slow
def test_a_model_has_one_digest_and_its_tokenizer_and_template_others(tmp_path):
    data = write_notes(tmp_path / "notes.jsonl")

    def of(path, **change):
        write_gguf(path, **change)
        config = RunConfig(data=data, clients=2, seq=64, model=str(path), adapter="lora(rank=1)")
        return prepare(config).contents

    first, again = (of(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert first == again
    assert first.keys() == {"data", "model", "tokenizer", "chat_template"}
    other = of(tmp_path / "c.gguf", change={"tokenizer.chat_template": "{{ messages }}"})
    assert {name for name in first if first[name] != other[name]} == {"chat_template"}
    untied = of(tmp_path / "d.gguf", tied=False)
    assert {name for name in first if first[name] != untied[name]} == {"model"}


@pytest.mark.slow
def test_an_imported_adapter_has_a_digest(tmp_path):
    data = write_notes(tmp_path / "notes.jsonl")

    def of(key):
        task = language_model(TINY, key=jr.key(key), adapter=lora(rank=2))
        export_adapter(tmp_path / str(key), task.model(task.params, task.frozen))
        text = f"import_adapter('{tmp_path / str(key)}')"
        return contents(data, adapter=text)["adapter"], contents(data, adapter=text, seed=1)

    (one, again), (other, _) = of(0), of(1)
    assert one == again["adapter"] != other


def test_an_adapter_of_other_scales_is_another_adapter(tmp_path):
    """`lora_alpha` 400 in place of 4 multiplies what the same tensors add by 100."""
    task = language_model(TINY, key=jr.key(0), adapter=lora(rank=2))
    export_adapter(tmp_path, task.model(task.params, task.frozen))
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    assert config["lora_alpha"] == 4

    def of(**change):
        path.write_text(json.dumps({**config, **change}))
        adapter = import_adapter(tmp_path)
        return {"adapter": adapter_digest(language_model(TINY, key=jr.key(0), adapter=adapter))}

    found = of()
    check_contents(found, of(lora_dropout=0.5, r=2), where="run.json")  # that changes no value
    changes = (
        {"lora_alpha": 400},
        {"alpha_pattern": {"q_proj": 400}},
        {"use_rslora": True},
    )
    others = [of(**change) for change in changes]
    for other in others:
        with pytest.raises(
            ValueError, match=r"^adapter: expected the content with digest \w{16}, "
        ):
            check_contents(found, other, where="run.json")
    assert len({each["adapter"] for each in others}) == len(changes)


@pytest.mark.slow
def test_resume_refuses_an_imported_adapter_of_another_alpha(tmp_path, capsys):
    data, out = write_notes(tmp_path / "notes.jsonl"), tmp_path / "run"
    task = language_model(TINY, key=jr.key(0), adapter=lora(rank=2))
    export_adapter(tmp_path / "lora", task.model(task.params, task.frozen))
    adapter = f"import_adapter('{tmp_path / 'lora'}')"
    flags = ["train", *SMALL, "--rounds", "1", "--data", data, "--adapter", adapter]
    flags += ["--out", str(out), "--resume"]
    main(flags)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 400}))
    assert "adapter: expected the content with digest" in refused(capsys, *flags)


def test_the_file_of_an_attack_has_a_digest(tmp_path):
    data, path = write_notes(tmp_path / "notes.jsonl"), tmp_path / "unsafe.jsonl"

    def of(answer):
        path.write_text(json.dumps({"prompt": "a", "answer": answer}))
        return contents(data, attack=f"unsafe_instructions(fraction=0.5, path='{path}')")

    one, again, other = of("b"), of("b"), of("c")
    assert one == again
    assert {name for name in one if one[name] != other[name]} == {"attack"}


@pytest.mark.slow
def test_resume_refuses_data_that_changed_and_leaves_the_folder(tmp_path, capsys):
    data, out = write_notes(tmp_path / "notes.jsonl"), tmp_path / "run"
    flags = ["train", *SMALL, "--rounds", "1", "--data", data, "--out", str(out), "--resume"]
    main(flags)
    about, summary = (json.loads((out / f"{name}.json").read_text()) for name in ("run", "summary"))
    assert about["contents"] == summary["contents"]
    write_notes(tmp_path / "notes.jsonl", "beds")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for finished in (True, False):
        if not finished:
            (out / "summary.json").unlink()
            before.pop(out / "summary.json")
        error = refused(capsys, *flags)
        digest = about["contents"]["data"][:16]
        assert f"data: expected the content with digest {digest}, as in {out}, got " in error
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_shown_when_done_and_else_refused(tmp_path, capsys):
    data, out = write_notes(tmp_path / "notes.jsonl"), tmp_path / "run"
    flags = ["train", *SMALL, "--rounds", "1", "--data", data, "--out", str(out), "--resume"]
    main(flags)
    about = json.loads((out / "run.json").read_text())
    del about["contents"]
    (out / "run.json").write_text(json.dumps(about))
    capsys.readouterr()
    main(flags)
    assert "Held-out nats per byte" in capsys.readouterr().out
    (out / "summary.json").unlink()
    assert f"contents: expected digests of data and model in {out}, got none" in refused(
        capsys, *flags
    )


@pytest.mark.slow
def test_a_sweep_refuses_rows_of_other_data(tmp_path, capsys):
    data = write_notes(tmp_path / "notes.jsonl")
    flags = ["frontier", *SMALL, "--rounds", "1", "--data", data, "--out", str(tmp_path / "out")]
    main([*flags, "--codecs", "identity()"])
    results = tmp_path / "out/results.jsonl"
    rows = results.read_bytes()
    write_notes(tmp_path / "notes.jsonl", "beds")
    capsys.readouterr()
    for codecs in (("identity()",), ("identity()", "eden(bits=1)")):
        error = refused(capsys, *flags, "--codecs", *codecs)
        assert f"as in the row of identity(), seed 0, in {results}, got " in error
        assert results.read_bytes() == rows
    row = json.loads(rows)
    del row["contents"]
    results.write_text(json.dumps(row) + "\n")
    main([*flags, "--codecs", "identity()"])  # of an earlier version: a table of it alone is shown
    capsys.readouterr()
    error = refused(capsys, *flags, "--codecs", "identity()", "eden(bits=1)")
    assert "contents: expected digests of data and model in the row of identity()" in error


def test_no_table_mixes_two_contents():
    row = {"codec": "identity()", "seed": 0, "heldout_nats_per_byte": 2.0, "uplink_bytes": 8}
    row |= {"uplink_bits_per_parameter": 32.0, "seconds": 1.0, "contents": {"data": "a" * 64}}
    (point,) = points([row, {**row, "seed": 1, "heldout_nats_per_byte": 4.0}])
    assert point.nats == 3.0
    with pytest.raises(ValueError, match="data: expected the content with digest aaaaaaaaaaaaaaaa"):
        points([row, {**row, "seed": 1, "contents": {"data": "b" * 64}}])
    with pytest.raises(ValueError, match="data: expected the content"):
        points([row, {name: value for name, value in row.items() if name != "contents"}])
