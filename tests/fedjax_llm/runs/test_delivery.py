"""What a run delivers is what it trained: the server's part, and each client's own model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_llm import language_model, models
from fedjax_llm.adapters import import_adapter
from fedjax_llm.evaluation import by_client
from fedjax_llm.model_files import read_safetensors
from fedjax_llm.models import DecoderConfig
from fedjax_llm.runs import RunConfig, deliver, prepare, run_rounds
from fedjax_llm.runs import rows as run_rows
from fedjax_llm.runs.delivery import folder_names
from fedjax_llm.simulation.digest import digest
from tests.helpers.commands import ROLES, refused, train

CONFIG = RunConfig(
    rounds=2,
    clients=3,
    local_steps=2,
    batch=2,
    seq=32,
    data=f"shakespeare(roles='{', '.join(ROLES)}')",
    client_axis="scan()",
    decoder=DecoderConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    ),
)


def ended(out, **changes):
    """A run, its summary, and what it delivered."""
    run = prepare(CONFIG.__class__(**(CONFIG.__dict__ | changes)))
    left = run_rounds(run, lambda row: None)
    return run, run_rows.summary(run, left), deliver(run, left.trained, out)


def own_loss(run, out, task_of):
    """Nats per token of the delivered models of all clients on their own held-out text."""
    totals = counts = 0
    folders = json.loads((out / "clients.json").read_text())
    for client, name in enumerate(run.split.heldout.names):
        task = task_of(out / folders[name])
        found = by_client(
            task.nats, task.params, task.frozen, run.split.heldout, seq=32, clients=[client]
        )
        totals, counts = totals + found.totals.sum(), counts + found.counts.sum()
    return totals / counts


def adapted(folder):
    """The base that a delivered adapter names, with the adapter."""
    config = json.loads((folder / "adapter_config.json").read_text())
    loaded, adapter = models.load(config["base_model_name_or_path"]), import_adapter(folder)
    key = jax.random.key(0)
    return language_model(loaded.config, key=key, adapter=adapter, params=loaded.params)


def whole(folder):
    loaded = models.load(folder)
    return language_model(loaded.config, key=jax.random.key(0), params=loaded.params)


@pytest.mark.slow
def test_fedsa_lora_delivers_each_clients_adapter_and_the_shared_a(tmp_path):
    run, summary, delivered = ended(
        tmp_path, clients=4, algorithm="fedsa_lora()", adapter="lora(rank=2)"
    )
    assert sorted(delivered) == ["adapters/", "base/", "shared/"]
    assert "adapter/b" in delivered["shared/"]
    assert "adapter/a" not in delivered["shared/"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapters", "base", "shared"]
    assert own_loss(run, tmp_path / "adapters", adapted) == pytest.approx(
        summary["personal_nats_per_byte"], rel=1e-5
    )
    shared = read_safetensors(tmp_path / "shared/adapter_model.safetensors")
    for role in ROLES:
        place = tmp_path / "adapters" / role.replace("/", "%2F") / "adapter_model.safetensors"
        for name, tensor in read_safetensors(place).items():
            if "lora_A" in name:
                np.testing.assert_array_equal(tensor.read(), shared[name].read())
            else:
                assert tensor.read().any()
                assert not shared[name].read().any()


@pytest.mark.slow
def test_fed_rep_delivers_trained_heads(tmp_path):
    run, summary, delivered = ended(tmp_path, clients=4, algorithm="fed_rep(personal='embedding')")
    assert sorted(delivered) == ["models/", "shared/"]
    assert "; embedding is as before training" in delivered["shared/"]
    assert own_loss(run, tmp_path / "models", whole) == pytest.approx(
        summary["personal_nats_per_byte"], rel=1e-5
    )
    shared = models.load(tmp_path / "shared").params
    np.testing.assert_array_equal(shared["embedding"], run.task.params["embedding"])
    own = models.load(tmp_path / "models" / "hamlet%2FHAMLET").params
    assert float(jnp.abs(own["embedding"] - shared["embedding"]).max()) > 1e-3
    same = jax.tree.map(np.array_equal, own["blocks"], shared["blocks"])
    assert all(jax.tree.leaves(same))


@pytest.mark.slow
def test_fed_md_delivers_the_clients_models_and_no_untrained_one(tmp_path):
    run, summary, delivered = ended(
        tmp_path,
        algorithm="fed_md(top=4)",
        data="shakespeare(at_least=20000)",
        population=12,
        rounds=1,
        local_steps=1,
    )
    assert list(delivered) == ["models/"]
    assert delivered["models/"].startswith("a folder for each of the 3 clients")
    names = json.loads((tmp_path / "models/clients.json").read_text())
    assert len(names) == 3
    start = run.task.params["embedding"]
    for folder in names.values():
        trained = models.load(tmp_path / "models" / folder).params["embedding"]
        assert float(jnp.abs(trained - start).max()) > 1e-3
    assert summary["digest"] != digest(run.task.params)  # which the server never changes


@pytest.mark.slow
def test_clients_models_of_a_small_part_are_written_without_the_base(tmp_path):
    run, _, delivered = ended(tmp_path, rounds=1, algorithm="ditto()", adapter="bottleneck(size=2)")
    assert sorted(delivered) == ["clients/", "parameters/"]
    tensors = read_safetensors(tmp_path / "parameters/parameters.safetensors")
    sizes = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    assert sizes == sum(leaf.size for leaf in jax.tree.leaves(run.task.params))
    assert "blocks/attention/o_proj/adapter/down" in tensors
    assert len(list((tmp_path / "clients").glob("*/parameters.safetensors"))) == 3


@pytest.mark.slow
def test_the_command_says_what_it_delivered(tmp_path, capsys):
    flags = ("--algorithm", "fedsa_lora()", "--adapter", "lora(rank=2)", "--rounds", "1")
    summary = train(tmp_path, *flags)
    assert sorted(summary["delivered"]) == ["adapters/", "base/", "shared/"]
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'adapters'}" in printed
    assert "a folder for each of the 2 clients that trained a model of their own" in printed


@pytest.mark.slow
def test_a_folder_with_somebodys_model_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    for resume in ((), ("--resume",)):
        error = refused(capsys, "train", "--out", str(tmp_path), *resume)
        assert "expected a folder without model/" in error
    assert (tmp_path / "model/config.json").read_text() == "{}"


def test_folder_names_are_safe_and_different():
    names = [
        "",
        ".",
        "..",
        "a/b",
        "a%2Fb",
        "A",
        "a",
        "con:",
        "x" * 300,
        "x" * 299,
        "é/ü ",
        "a~2",
        "\ud800",
    ]
    names += ["Clients.json"]
    found = folder_names(names)
    assert len({name.casefold() for name in [*found, "clients.json"]}) == len(names) + 1
    for name in found:
        assert 0 < len(name.encode()) <= 125
        assert not set(name) & set('/\\:*?"<>|')
        assert name not in (".", "..")
