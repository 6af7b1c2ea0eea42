"""Runs that start from a checkpoint and learn texts or chats from files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedjax_llm.cli.main import main
from fedjax_llm.data import Example
from fedjax_llm.runs import Named, RunConfig, keeping_last, prepare
from tests.helpers.commands import refused
from tests.helpers.gguf_files import write_gguf

USERS = ("ada", "bob", "cyd", "dan")
FLAGS = [
    *("--rounds", "2", "--clients", "2", "--local-steps", "2", "--batch", "2", "--seq", "24"),
    *("--adapter", "lora(rank=2)", "--client-optimizer", "adam(0.02)"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny checkpoint, and chats of four users, some of them longer than a window."""
    folder = tmp_path_factory.mktemp("files")
    write_gguf(folder / "tiny.gguf")
    with (folder / "chats.jsonl").open("w") as file:
        for number in range(12 * len(USERS)):
            answer = f"{number} he had a bee. " * (1 + number % 3)
            messages = [
                {"role": "user", "content": f"what is {number}?"},
                {"role": "assistant", "content": answer},
            ]
            file.write(json.dumps({"user": USERS[number % 4], "messages": messages}) + "\n")
    with (folder / "pairs.jsonl").open("w") as file:
        for number in range(12 * len(USERS)):
            answers = {"chosen": f"{number} bees", "rejected": f"{number} ants"}
            prompt = f"what is {number}?"
            file.write(json.dumps({"user": USERS[number % 4], "prompt": prompt, **answers}) + "\n")
    return folder


def chats(files):
    return f"jsonl('{files / 'chats.jsonl'}', fields(messages='messages', client='user'))"


def flags(files, *more):
    return [*FLAGS, "--model", str(files / "tiny.gguf"), "--data", chats(files), *more]


@pytest.mark.slow
def test_a_checkpoint_learns_chats_from_a_file_beside_its_baselines(files, tmp_path, capsys):
    cache, out = tmp_path / "cache", tmp_path / "out"
    main(["train", *flags(files), "--baselines", "--cache", str(cache), "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["config"]["client_axis"] == "scan()"
    assert summary["config"]["model"] == str(files / "tiny.gguf")
    assert "heldout_bigram_nats_per_byte" not in summary
    baseline_rows = summary["baselines"]
    assert baseline_rows["untrained"]["steps"] == 0
    assert baseline_rows["centralised"]["steps"] == 2 * 2
    assert (
        baseline_rows["local"]["steps"] == 2
    )  # two rounds of two steps, half of the clients in each
    start = baseline_rows["untrained"]["heldout_nats_per_token"]
    for row in (summary, baseline_rows["centralised"], baseline_rows["local"]):
        assert row["heldout_nats_per_token"] < start
        # most tokens of this tokenizer are one byte, and the ends of answers have none
        assert 0.8 < row["heldout_nats_per_byte"] / row["heldout_nats_per_token"] < 1.3
    assert len(list(cache.iterdir())) == 1
    shown = capsys.readouterr().out
    assert "Held-out nats per token against bytes" in shown
    assert f"{summary['heldout_nats_per_token']:.4f} heldout nats per token" in shown
    untrained = next(line for line in shown.splitlines() if line.startswith("untrained"))
    assert f"{start:.4f} heldout nats per token" in untrained


def fedit_folder(path):
    """Three clients with four records each, and a test set of two."""
    path.mkdir()
    names = [*(f"local_training_{number}" for number in range(3)), "global_test"]
    for name, count in zip(names, (4, 4, 4, 2), strict=True):
        records = [
            {"instruction": f"{name[-6:]} {i}?", "input": "", "output": f"{i} bees"}
            for i in range(count)
        ]
        (path / f"{name}.json").write_text(json.dumps(records))
    return path


@pytest.mark.slow
def test_the_test_set_of_a_folder_of_fedit_is_held_out(files, tmp_path, capsys):
    folder, out = fedit_folder(tmp_path / "published"), tmp_path / "out"
    args = [*flags(files)[:-2], "--seq", "60", "--rounds", "1", "--unseen", "share(0)"]
    args += ["--data", f"fedit('{folder}')", "--heldout", f"fedit_test('{folder}')"]
    main(["train", *args, "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["contents"].keys() >= {"data", "heldout"}
    assert summary["heldout_nats_per_token"] > 0
    assert summary["heldout_evaluated"]["clients"] == 1
    run = prepare(
        RunConfig(
            data=f"fedit('{folder}')",
            heldout=f"fedit_test('{folder}')",
            model=str(files / "tiny.gguf"),
            unseen="share(0)",
            adapter="lora(rank=2)",
            clients=2,
            seq=60,
        )
    )
    assert run.split.train.pieces().tolist() == [4, 4, 4]
    assert run.split.heldout.names == ("global_test",)
    assert run.split.heldout.pieces().tolist() == [2]
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "fedit_test('folder')" in capsys.readouterr().out


def preferring(files, *more):
    data = f"jsonl('{files / 'pairs.jsonl'}', pair_fields(client='user'))"
    return [*flags(files)[:-2], "--seq", "40", "--data", data, "--task", "preference()", *more]


@pytest.mark.slow
def test_a_checkpoint_learns_what_people_prefer(files, tmp_path, capsys):
    out = tmp_path / "out"
    main(["train", *preferring(files, "--task", "preference(beta=.5)"), "--out", str(out)])
    summary = json.loads((out / "summary.json").read_text())
    assert summary["config"]["task"] == "preference(beta=0.5)"
    assert summary["config"]["long"] == "error"
    assert summary["heldout_nats_per_pair"] < np.log(2) - 0.1  # log 2 is where it started
    assert summary["heldout_preferred"] == 1
    assert summary["heldout_nats_per_pair"] <= summary["heldout_nats_per_pair_of_worst_tenth"]
    assert not [key for key in summary if key.endswith(("per_token", "per_byte"))]
    rounds = [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]
    assert rounds[0]["train_nats_per_pair"] > rounds[1]["train_nats_per_pair"]
    shown = capsys.readouterr().out
    assert (
        f"{summary['heldout_nats_per_pair']:.4f} heldout nats per pair, 1.0000 heldout pr" in shown
    )
    assert "Held-out nats per pair against bytes" in shown
    assert (out / "adapter").exists()


def long_pairs(path):
    """Pairs longer than a window, whose answers differ from their 41st, 13th or first character."""
    with path.open("w") as file:
        for number in range(12 * len(USERS)):
            same = "z" * (40, 12, 0)[number // 4 % 3]
            pair = {"chosen": f"{same}1", "rejected": f"{same}2", "prompt": "x5x7" * 20}
            file.write(json.dumps({"user": USERS[number % 4], **pair}) + "\n")
    return f"jsonl('{path}', pair_fields(client='user'))"


@pytest.mark.slow
def test_pairs_that_truncation_leaves_out_are_counted_where_users_look(files, tmp_path, capsys):
    """Of 41 tokens, the prompt keeps 8 or 20, and the answers the others, 11 of "assistant: "."""
    out, data = tmp_path / "out", long_pairs(tmp_path / "long.jsonl")
    args = [*flags(files)[:-2], "--seq", "40", "--data", data, "--heldout", data]
    args += ["--rounds", "1", "--local-steps", "1", "--long", "truncate"]
    main(["train", *args, "--task", "preference(prompt_tokens=8)", "--out", str(out)])
    said = [text for text in capsys.readouterr().err.splitlines() if "left out" in text]
    assert said == [
        f"fedjax-llm: {field}: left out 16 of 48 pairs, of which nothing is learnt at seq=40 with "
        "long=truncate."
        for field in ("data", "heldout")
    ]
    for name in ("run", "summary"):
        found = json.loads((out / f"{name}.json").read_text())["left_out"]
        assert found == {"data": {"pairs": [16, 48]}, "heldout": {"pairs": [16, 48]}}
    config = {"data": data, "model": str(files / "tiny.gguf"), "adapter": "lora(rank=2)"}
    base = RunConfig(**config, clients=2, seq=40, task="preference(prompt_tokens=20)")
    more = prepare(replace(base, long="truncate"))
    assert more.workload.left_out == {"data": {"pairs": (32, 48)}}
    assert more.workload.corpus.pieces().tolist() == [4, 4, 4, 4]
    begins = np.flatnonzero(more.workload.corpus.corpus.counted)[0]
    assert begins == 41 - len("assistant: 1\n")  # that much of the prompt fits beside the answer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--task", "preferences()"),
            "task: expected one of classification, language_model, preference, got",
        ),
        (
            ("--task", "preference(beta=0)"),
            "task: preference: beta: expected a number above 0, got 0",
        ),
        (
            ("--task", "language_model()"),
            "data: expected records of the type Example, got Pair; fields(",
        ),
        (
            ("--data", "shakespeare()"),
            "data: expected records of the type Pair, got Example; pair_fields(",
        ),
        (("--algorithm", "fed_md()"), "task: fed_md is for language models, expected language_m"),
        (("--long", "split"), "long: expected error or truncate or drop, got sp"),
        (("--seq", "9"), "pairs.jsonl: line 1: expected at most 10 tokens, a window of seq=9"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(files, tmp_path, capsys, more, message):
    error = refused(capsys, "train", *preferring(files), "--out", str(tmp_path / "out"), *more)
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_fresh_decoder_reads_no_pairs(files, tmp_path, capsys):
    args = [arg for arg in preferring(files) if arg not in ("--model", str(files / "tiny.gguf"))]
    assert "model: expected a pretrained model, whose tokenizer separates a prompt" in refused(
        capsys, "train", *args, "--out", str(tmp_path / "out")
    )


def test_tokens_come_from_the_cache_the_same(files, tmp_path):
    config = RunConfig(
        model=str(files / "tiny.gguf"),
        data=f"iid(fedit('{fedit_of(tmp_path)}'), clients=3, seed=1)",
        clients=2,
        seq=24,
    )
    first, again = (prepare(config, cache=tmp_path / "cache") for _ in range(2))
    assert first.workload.corpus.tokens.tolist() == again.workload.corpus.tokens.tolist()
    assert first.workload.corpus.names == ("client 0", "client 1", "client 2")
    assert first.workload.corpus.tokens.max() < first.workload.config.vocab_size


def test_configurations_that_read_the_same_read_it_once(files):
    config = RunConfig(model=str(files / "tiny.gguf"), data=chats(files), clients=2, seq=24)
    alike = [config, replace(config, uplink="eden(bits=1)"), replace(config, seed=1, rounds=3)]
    read = keeping_last()
    first, *others = [prepare(each, read=read).workload for each in alike]
    assert all(other is first for other in others)
    for change in ({"seq": 12}, {"population": 3}, {"population": 3, "seed": 1}):
        changed = prepare(replace(config, **change), read=read).workload
        assert changed is not first
        fresh = prepare(replace(config, **change)).workload
        assert changed.contents == fresh.contents
        assert changed.corpus.names == fresh.corpus.names
        assert changed.corpus.tokens.tolist() == fresh.corpus.tokens.tolist()


def test_data_that_were_given_are_told_apart_as_objects():
    """By which they are: their values may have no truth, as arrays have none."""

    def given():
        example = Example("a text of some length", variables={"x": np.arange(3)})
        return {name: [example] * 4 for name in USERS}

    data = [Named("mine()", given()) for _ in range(2)]
    configs = [RunConfig(data=each, clients=2, seq=16, batch=1) for each in data for _ in range(2)]
    read = keeping_last()
    first, again, other, last = (prepare(config, read=read).workload for config in configs)
    assert first is again
    assert other is last
    assert first is not other


def fedit_of(folder):
    records = [{"instruction": f"say {n}", "response": f"he said {n}"} for n in range(9)]
    (folder / "fedit").mkdir()
    (folder / "fedit/local_training_0.json").write_text(json.dumps(records))
    return folder / "fedit"


@pytest.mark.slow
def test_a_population_is_drawn_by_the_seed(files):
    def names(seed):
        config = RunConfig(
            model=str(files / "tiny.gguf"),
            data=chats(files),
            population=2,
            clients=1,
            seq=24,
            seed=seed,
        )
        return prepare(config).workload.corpus.names

    drawn = [names(seed) for seed in range(6)]
    assert all(len(two) == 2 and set(two) <= set(USERS) for two in drawn)
    assert len(set(drawn)) > 1
    assert names(0) == drawn[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--vocab-size", "300"), "vocab_size: expected none beside --model, whose own"),
        (
            ("--model", "nowhere"),
            "place: expected a path that exists, a model of a package (smollm2, minilm) or",
        ),
        (("--long", "error"), "tokens, a window of seq=24 and its last target, got"),
        (("--adapter", "head_only()"), "adapter: head_only: model: expected a Classifier"),
        (("--adapter", "layers(0)", "--save-base"), "save_base: expected an adapter that peft has"),
        (("--adapter", "lora(rank=2, targets='qkv_proj')"), "targets"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    files, tmp_path, capsys, more, message
):
    error = refused(capsys, "train", *flags(files), "--out", str(tmp_path / "out"), *more)
    assert message in error
    assert not (tmp_path / "out").exists()


CLOCK = "{{ strftime_now('%Y') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
CLOCK += "{% if add_generation_prompt %}<assistant>{% endif %}"


def test_a_chat_template_comes_from_a_file_and_its_date_is_recorded(files, tmp_path):
    path = tmp_path / "template.jinja"
    path.write_bytes(b"\xef\xbb\xbf" + CLOCK.encode())
    data = chats(files)
    common = {"model": str(files / "tiny.gguf"), "data": data, "clients": 2, "seq": 99}

    def begins(**options):
        run = prepare(RunConfig(**common, chat_template=str(path), **options))
        text = run.workload.tokenizer.decode(run.workload.corpus.tokens[:30])
        return run.config.date, text.replace(" ", "")[:10]

    assert begins() == ("2024-07-26", "2024<user>")
    assert begins(date="1999-12-31") == ("1999-12-31", "1999<user>")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--date", "2025-01-31"), "date: expected none, as the model's chat template shows no da"),
        (("--chat-template", "nowhere.jinja"), "nowhere.jinja"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(files, tmp_path, capsys, more, message):
    error = refused(capsys, "train", *flags(files), "--out", str(tmp_path / "out"), *more)
    assert message in error


@pytest.mark.slow
@pytest.mark.parametrize("flag", [("--date", "2025-01-31"), ("--chat-template", "x.jinja")])
def test_bytes_have_no_chat_template(tmp_path, capsys, flag):
    name = flag[0][2:].replace("-", "_")
    message = f"{name}: expected none without --model, as a byte-level decoder reads no chats"
    assert message in refused(capsys, "train", "--out", str(tmp_path / "out"), *flag)
