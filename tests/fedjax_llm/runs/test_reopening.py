"""What `train` wrote is opened again: its model by `--model`, and the base of its adapter."""

import json

import numpy as np
import pytest

from fedjax_llm import models
from fedjax_llm.cli.main import main
from tests.helpers.commands import train
from tests.helpers.gguf_files import write_gguf

TEXT = "Ünïcödé, \x00\x7f\t\r\n two  spaces 'tis 漢字 \U0001f600"


@pytest.mark.slow
def test_the_model_of_a_byte_decoder_is_opened_and_trained_on(tmp_path):
    train(tmp_path / "first", "--rounds", "1")
    tokenizer = models.load(tmp_path / "first/model").load_tokenizer()
    ids = tokenizer(TEXT)["input_ids"]
    assert ids == list(TEXT.encode())
    assert tokenizer.decode(ids) == TEXT
    again = [
        *("train", "--model", str(tmp_path / "first/model"), "--out", str(tmp_path / "second")),
        *("--data", "shakespeare(roles='hamlet/HAMLET, hamlet/HORATIO, macbeth/MACBETH')"),
        *("--rounds", "1", "--clients", "2", "--local-steps", "1", "--batch", "2", "--seq", "32"),
    ]
    main(again)
    summary = json.loads((tmp_path / "second/summary.json").read_text())
    assert summary["heldout_nats_per_byte"] == pytest.approx(
        summary["heldout_nats_per_token"], rel=1e-6
    )  # a token is a byte
    before, after = (models.load(tmp_path / f"{name}/model").params for name in ("first", "second"))
    assert np.abs(before["embedding"] - after["embedding"]).max() < 0.01  # one step of adam(.0005)


@pytest.mark.slow
def test_an_adapter_names_a_base_that_peft_can_open(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    names = []
    for number, more in enumerate(((), ("--save-base",))):
        out = tmp_path / str(number)
        main(
            [
                *("train", "--model", "tiny.gguf", "--adapter", "lora(rank=2)", "--out", str(out)),
                *("--data", "shakespeare(roles='hamlet/HAMLET, hamlet/HORATIO, macbeth/BANQUO')"),
                *("--rounds", "1", "--clients", "2", "--local-steps", "1", "--batch", "2"),
                *("--seq", "16", *more),
            ]
        )
        delivered = json.loads((out / "summary.json").read_text())["delivered"]
        assert ("or write it with --save-base" in delivered["adapter/"]) == (not more)
        config = json.loads((out / "adapter/adapter_config.json").read_text())
        names.append(config["base_model_name_or_path"])
    assert names == [None, str(tmp_path / "1/base")]
    base, start = (models.load(place).params for place in (names[1], tmp_path / "tiny.gguf"))
    np.testing.assert_array_equal(base["embedding"], start["embedding"])
    q_proj = [params["blocks"]["attention"]["q_proj"]["kernel"] for params in (base, start)]
    np.testing.assert_array_equal(*q_proj)


@pytest.mark.slow
def test_a_folder_is_named_as_the_base_from_everywhere(tmp_path, monkeypatch):
    train(tmp_path / "first", "--rounds", "1", "--local-steps", "1")
    monkeypatch.chdir(tmp_path)
    train_on = ("--model", "first/model", "--adapter", "ia3()", "--rounds", "1")
    sizes = ("--local-steps", "1", "--batch", "2", "--seq", "32", "--clients", "2")
    data = ("--data", "shakespeare(roles='hamlet/HAMLET, hamlet/HORATIO, macbeth/BANQUO')")
    main(["train", *train_on, *sizes, *data, "--out", "second"])
    config = json.loads((tmp_path / "second/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "first/model")
    assert not (tmp_path / "second/base").exists()
