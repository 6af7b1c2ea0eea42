"""Runs that classify texts with a pretrained encoder, and what they deliver."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from fedjax_llm import classification, models
from fedjax_llm.adapters import import_adapter
from fedjax_llm.cli.main import main
from fedjax_llm.data import all_windows
from fedjax_llm.models import Encoder, EncoderConfig
from fedjax_llm.runs import RunConfig, prepare
from tests.helpers.commands import refused
from tests.helpers.fast_tokenizers import byte_level

CONFIG = EncoderConfig(
    vocab_size=330,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    max_position_embeddings=24,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tiny encoder, and texts of four people that end in one of two labels."""
    folder = tmp_path_factory.mktemp("files")
    encoder = nnx.to_pure_dict(nnx.state(Encoder(CONFIG, rngs=nnx.Rngs(7)), nnx.Param))
    models.save(folder / "encoder", CONFIG, encoder, tokenizer=byte_level())
    with (folder / "texts.jsonl").open("w") as file:
        for number in range(80):
            label = ("cat", "mat")[number % 2]
            row = {"text": f"{number} {label}", "label": label, "who": f"person {number // 2 % 4}"}
            file.write(json.dumps(row) + "\n")
    return folder


def flags(files, *more):
    data = f"jsonl('{files / 'texts.jsonl'}', fields(text='text', label='label', client='who'))"
    return [
        *("--model", str(files / "encoder"), "--data", data, "--task", "classification(labels=2)"),
        *("--rounds", "3", "--clients", "3", "--local-steps", "8", "--batch", "8", "--seq", "16"),
        *("--client-optimizer", "adam(0.02)", *more),
    ]


def accuracy(task, texts):
    """Share of the texts whose highest score is their label's, one text at a time."""
    batches = all_windows(texts, seq=16, batch=1)
    model, right = task.model(task.params, task.frozen), []
    score = jax.jit(lambda ids, segments: model(ids, segments=segments))
    for ids, there, label in zip(batches.tokens, batches.segments, batches.labels, strict=True):
        scores = score(np.int32(ids), np.int32(there))
        right.append(int(np.argmax(scores)) == label[0])
    return np.mean(right)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "place", "trainable"),
    [
        ("full()", "model", None),
        ("head_only()", "model", 2 * 16 + 2),
        ("lora(rank=2, targets='query,value')", "adapter", 2 * 2 * 2 * 32 + 2 * 16 + 2),
    ],
)
def test_a_run_classifies_and_delivers_its_head(files, tmp_path, capsys, adapter, place, trainable):
    main(["train", *flags(files, "--adapter", adapter), "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["trainable"] == trainable or trainable is None
    assert list(summary["delivered"]) == [f"{place}/"]
    assert summary["label_names"] == ["cat", "mat"]
    assert "heldout accuracy" in (shown := capsys.readouterr().out)
    assert "Held-out nats per text against bytes" in shown
    assert shown.count(f"{summary['heldout_nats_per_text']:.4f}") >= 2  # in the table too
    run = prepare(RunConfig(**{**json_config(summary), "client_axis": "scan()"}))
    if place == "adapter":
        config = json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(files / "encoder")
        base = models.load(files / "encoder")
        given = {"adapter": import_adapter(tmp_path / "run/adapter"), "params": base.params}
    else:
        loaded = models.load(tmp_path / "run/model")
        assert loaded.labels == 2
        written = json.loads((tmp_path / "run/model/config.json").read_text())
        assert written["label2id"] == {"cat": 0, "mat": 1}
        given = {"params": loaded.params}
    task = classification(CONFIG, labels=2, key=jax.random.key(5), **given)
    assert summary["heldout_accuracy"] == pytest.approx(accuracy(task, run.split.heldout))
    assert summary["heldout_accuracy"] > 0.8 or adapter == "head_only()"


def json_config(summary):
    """The texts and numbers of a run's configuration."""
    return {k: v for k, v in summary["config"].items() if k != "decoder"}


@pytest.mark.slow
def test_a_classifier_of_mean_vectors_is_delivered_as_its_parameters(files, tmp_path):
    """BertForSequenceClassification of transformers reads the first vector."""
    more = ("--task", "classification(labels=2, pooling='mean')", "--adapter", "lora(rank=2)")
    main(["train", *flags(files, *more, "--rounds", "1"), "--out", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert list(summary["delivered"]) == ["parameters/"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--task", "classification(labels=3)"),
            "expected records with 3 labels, as the task says",
        ),
        (("--task", "classification(labels=1)"), "labels: expected an integer at least 2, got 1"),
        (("--task", "language_model()"), "model: expected a decoder, which the task trains, got"),
        (
            ("--chat-template", "chat.jinja"),
            "chat_template: expected none for an encoder, which reads no chats, got 'chat.jinja'",
        ),
        (
            ("--data", "shakespeare()"),
            "expected records with 2 labels, as the task says, got 1: ''",
        ),
        (("--algorithm", "fed_md()"), "task: fed_md is for language models, expected language_m"),
        (("--long", "split"), "long: expected error or truncate, got split"),
    ],
)
def test_what_does_not_fit_a_classification_is_refused(files, tmp_path, capsys, more, message):
    error = refused(capsys, "train", *flags(files), "--out", str(tmp_path / "out"), *more)
    assert message in error
    assert not (tmp_path / "out").exists()


def test_held_out_text_of_other_labels_is_refused(files, tmp_path, capsys):
    text = (files / "texts.jsonl").read_text().replace('"cat"', '"dog"')
    (tmp_path / "other.jsonl").write_text(text)
    heldout = f"jsonl('{tmp_path / 'other.jsonl'}', fields(text='text', label='label'))"
    error = refused(capsys, "train", *flags(files), "--heldout", heldout)
    assert "heldout: expected the labels of the data, 'cat', 'mat', got 'dog', 'mat'" in error


def test_a_fresh_decoder_classifies_nothing(files, tmp_path, capsys):
    error = refused(capsys, "train", *flags(files)[2:], "--out", str(tmp_path / "out"))
    assert "model: expected a pretrained encoder, such as minilm" in error


@pytest.mark.slow
def test_minilm_classifies_from_its_name(files, tmp_path):
    more = ("--model", "minilm", "--adapter", "head_only()", "--rounds", "1", "--out")
    main(["train", *flags(files, *more, str(tmp_path))])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["trainable"] == 2 * 384 + 2
    assert 0 <= summary["heldout_accuracy"] <= 1
