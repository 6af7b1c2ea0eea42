"""What `fedjax-llm bench` measures, on a rung that takes no time."""

import json

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from fedjax_llm.bench import rounds as bench
from fedjax_llm.cli import bench as bench_command
from fedjax_llm.cli import main
from fedjax_llm.cli.output import keep_programs
from fedjax_llm.models import DecoderConfig
from fedjax_llm.runs import RunConfig

SMALLEST = RunConfig(
    decoder=DecoderConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1),
    adapter="lora(rank=2)",
    clients=2,
    local_steps=3,
    population=30,
    batch=2,
    seq=8,
)


@pytest.fixture
def programs_kept():
    """Afterwards none are, as before."""
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def row():
    (row,) = bench.bench({"smallest": SMALLEST}, repeats=2)
    return row


@pytest.mark.long
def test_a_rung_counts_its_tokens_and_parameters(row):
    kernels = {"q": 16 * 16, "k": 16 * 8, "v": 16 * 8, "o": 16 * 16, "mlp": 3 * 16 * 24}
    thin = 2 * ((16 + 16) * 2 + (16 + 8) * 2 + (16 + 24) * 3)
    assert row["tokens"] == 2 * 3 * 2 * 8
    assert row["trainable"] == thin
    assert row["parameters"] == thin + sum(kernels.values()) + 256 * 16 + 3 * 16


@pytest.mark.slow
def test_a_rungs_times_and_shares_belong_together(row):
    assert row["host_share"] == pytest.approx(1 - row["device_seconds"] / row["round_seconds"])
    assert 0 < row["share_of_peak"] < 1
    assert row["compile_seconds"] > row["round_seconds"] > 0
    assert row["peak_bytes"] > 2**20
    assert row["client_axis"] in ("scan()", "vmap()")


def test_products_of_frozen_kernels_cost_no_gradients_of_theirs():
    run = bench.prepare(SMALLEST)
    frozen = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 256 * 16
    trained = 2 * ((16 + 16) * 2 + (16 + 8) * 2 + (16 + 24) * 3)
    assert bench.flops_per_token(run) == 4 * frozen + 6 * trained + 12 * 1 * 16 * 8


def test_the_command_writes_what_it_measured_once(row, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_command, "measured", lambda rungs, repeats: [row])
    main(["bench", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "bench.json").read_text()) == {"rungs": [row]}
    assert "smallest" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "--out", str(tmp_path)])
    assert "expected a folder without results, got one with bench.json" in capsys.readouterr().err


def test_a_rung_is_kept_once_it_is_measured(row, tmp_path, monkeypatch):
    def measured(rungs, repeats):
        yield row
        assert json.loads((tmp_path / "bench.json").read_text()) == {"rungs": [row]}

    monkeypatch.setattr(bench_command, "measured", measured)
    main(["bench", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--rungs", "huge"),
            "rungs: expected some of short, short_eden, tiny, middle, middle_lora, large_lora, got",
        ),
        (("--repeats", "0"), "repeats: expected at least 1, got 0"),
    ],
)
def test_bad_input_is_said_in_one_line(flags, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["bench", *flags, "--out", str(tmp_path)])
    assert said in capsys.readouterr().err


def test_compiled_programs_are_kept_where_asked_for(tmp_path, programs_kept):
    keep_programs(tmp_path / "programs")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()
    jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones((3, 3))).block_until_ready()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    assert any((tmp_path / "programs").iterdir())
