"""Configurations that ask for too much, or for nothing that exists: one line each."""

import json

import pytest

from fedjax_llm.models import EncoderConfig, config_from, save
from fedjax_llm.runs import RunConfig, memory
from tests import fuzz_configs
from tests.helpers import families
from tests.helpers.commands import ROLES, SMALL, refused

DATA = ("--data", f"shakespeare(roles='{', '.join(ROLES)}')")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama3"
    config = config_from(families.FAMILIES["llama3"])
    save(folder, config, families.params(config))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--seq", "100000000"),  # 2 rows * 10^8 * 256 logits of 4 bytes
            "seq: expected what fits into 16 GiB of memory, got 100000000: the logits of a step "
            "take 191 GiB.",
        ),
        (
            ("--seq", "100000"),  # 2 heads * 2 rows * 10^10 scores of 4 bytes
            "seq: expected what fits into 16 GiB of memory, got 100000: the attention scores of a "
            "step take 149 GiB.",
        ),
        (
            ("--batch", "10000000"),  # 10^7 * 32 * 256 logits of 4 bytes
            "batch: expected what fits into 16 GiB of memory, got 10000000: the logits of a step "
            "take 305 GiB.",
        ),
        (
            ("--local-steps", "1000000000"),  # 10^9 * 2 * 32 tokens of 4 bytes
            "local_steps: expected what fits into 16 GiB of memory, got 1000000000: a client's "
            "tokens take 238 GiB.",
        ),
        (
            ("--intermediate-size", "1000000000"),  # 16 * 10^9 entries of 4 bytes
            "intermediate_size: expected what fits into 16 GiB of memory, got 1000000000: the "
            "largest parameter takes 59.6 GiB.",
        ),
        (("--num-hidden-layers", str(2**40)), "num_hidden_layers: expected an integer at least 1"),
        (("--rms-norm-eps", "nan"), "rms_norm_eps: expected a finite number above 0, got nan."),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_allocated(
    capsys, tmp_path, monkeypatch, flags, message
):
    monkeypatch.setattr(memory, "memory", lambda: 2**34)
    error = refused(capsys, "train", *SMALL, "--out", str(tmp_path / "out"), *flags)
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (  # 10^7 * 32 * 256 inner entries of 4 bytes; the tokens of a client are 2 * 10^7 * 32
            {"batch": 10**7},
            "batch: expected what fits into 16 GiB of memory, got 10000000: the inner entries of a "
            "step take 305 GiB.",
        ),
        (  # 2 rows * 4 heads * 10^10 scores of 4 bytes
            {"seq": 10**5},
            "seq: expected what fits into 16 GiB of memory, got 100000: the attention scores of a "
            "step take 298 GiB.",
        ),
        (  # 10^9 * 2 * 32 tokens of 4 bytes
            {"local_steps": 10**9},
            "local_steps: expected what fits into 16 GiB of memory, got 1000000000: a client's "
            "tokens take 238 GiB.",
        ),
    ],
)
def test_what_cannot_fit_is_refused_for_an_encoder_too(monkeypatch, given, message):
    monkeypatch.setattr(memory, "memory", lambda: 2**34)
    sizes = {"seq": 32, "batch": 2, "local_steps": 2}
    memory.check_memory(RunConfig(**sizes), EncoderConfig(), texts=1)
    with pytest.raises(ValueError, match=message):
        memory.check_memory(RunConfig(**sizes | given), EncoderConfig(), texts=1)


@pytest.mark.slow
def test_a_run_of_an_encoder_that_cannot_fit_is_refused_by_the_command(
    capsys, tmp_path, monkeypatch
):
    fuzz_configs.write_models(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(memory, "memory", lambda: 2**34)
    flags = fuzz_configs.encoder_flags(tmp_path) | {"batch": "100000000"}
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    words += ["--model", str(tmp_path / "model-bert"), "--out", str(tmp_path / "out")]
    assert "batch: expected what fits into 16 GiB of memory, got 100000000" in refused(
        capsys, "train", *words
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 7 TiB"), "out of memory: Unable to allocate 7 TiB; a sm"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"),
            "out of memory: Out of memory allocating 9 bytes; a smaller seq, batch, model",
        ),
    ],
)
def test_a_lack_of_memory_is_one_line(capsys, monkeypatch, error, said):
    def out_of_memory(args):
        raise error

    monkeypatch.setattr("fedjax_llm.cli.commands.run", out_of_memory)
    assert f"fedjax-llm: {said}" in refused(capsys, "train")


def test_this_machine_says_how_much_memory_it_has():
    assert 2**28 < memory.memory() < 2**50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", float("inf"), "hidden_size: expected a whole number from 1 to 21"),
        ("rms_norm_eps", float("nan"), "rms_norm_eps: expected a finite number above 0, got nan"),
        ("vocab_size", 2**30, "expected shape (1073741824, 32), got (48, 32)"),
        ("num_hidden_layers", 10_000, "tensors: expected model.layers."),
    ],
)
def test_a_config_json_out_of_range_is_one_line(capsys, tmp_path, model, key, value, message):
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, key: value}))
    out = ("--out", str(tmp_path / "out"))
    error = refused(capsys, "train", "--model", str(tmp_path), *DATA, *out)
    assert message in error
    assert str(tmp_path) in error


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("train", "--rounds", "1e9"), "Error parsing --rounds: invalid literal for int() with ba"),
        (("train", "--roun", "3"), "Unrecognized options: --roun, 3 (did you mean --rounds?)."),
        (("train", "--rounds"), "Missing value for argument '--rounds'. Expected 1 values."),
        (("trian",), "Unrecognized options: trian."),
        ((), "Expected one of {train, federate, codecs, bench, frontier, report, study}."),
    ],
)
def test_words_that_are_no_flags_are_one_line(capsys, args, said):
    assert f"fedjax-llm: {said}" in refused(capsys, *args)


@pytest.mark.long
def test_configurations_drawn_at_random_end_in_a_result_or_in_one_line(tmp_path):
    """`make fuzz-config` draws 2,000."""
    fuzz_configs.write_models(tmp_path)
    wrong, counts = fuzz_configs.fuzz(40, 1, tmp_path)
    assert not wrong
    assert min(counts.values()) > 2
