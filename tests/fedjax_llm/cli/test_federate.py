"""What `fedjax-llm federate` refuses before it starts anything; no test here needs Flower."""

from io import StringIO

import pytest
from rich.console import Console

from fedjax_llm import DecoderConfig
from fedjax_llm.cli.federate import clients_table
from fedjax_llm.data import byte_corpus, hold_out
from fedjax_llm.runs import RunConfig
from fedjax_llm.runs.federated.parts import REFUSED, drawn, federated_run
from fedjax_llm.runs.federated.status import ClientStatus, Status
from tests.helpers.commands import ROLES, SMALL, refused

GIVEN = {
    "client_axis": "vmap()",
    "faults": "faults(dropout=0.5)",
    "link": "link(uplink=1e6, downlink=1e6)",
    "deadline": "deadline(seconds=60)",
    "availability": "diurnal(share=0.5)",
    "buffer": "2",
    "attack": "sign_flip(fraction=0.5)",
    "sampler": "poisson(0.5)",
    "gradients": "dp_sgd(clip=1.0, noise_multiplier=1.0)",
    "secret": "a-file",
    "delta": "1e-5",
    "evaluate_every": "1",
    "target_loss": "1.0",
}


def test_each_flag_of_the_simulation_alone_is_refused_by_name(capsys, tmp_path):
    assert set(GIVEN) == set(REFUSED)
    for name, value in GIVEN.items():
        flag = f"--{name.replace('_', '-')}"
        error = refused(capsys, "federate", *SMALL, "--out", str(tmp_path / "out"), flag, value)
        assert error.startswith(f"fedjax-llm: {name}: expected none over Flower, ")
    assert not (tmp_path / "out").exists()


def test_flags_of_train_that_it_has_not_are_refused_by_name(capsys):
    for flag in ("--baselines", "--track", "--checkpoint-every"):
        assert flag in refused(capsys, "federate", flag, "1")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--threshold", "2"], 'threshold: expected none, as only --aggregate "secure_mean()" has'),
        (
            [
                *("--uplink", "fixed_point(clip=0.1, clients=2)"),
                *("--aggregate", "secure_mean()"),
            ],
            "Setup: clients: expected an integer at least 3",
        ),
    ],
)
def test_secure_sums_that_cannot_be_are_refused_by_name(flags, said, capsys, tmp_path):
    pytest.importorskip("flwr")
    error = refused(capsys, "federate", *SMALL, "--local", "2", "--out", str(tmp_path), *flags)
    assert said in error


def config(**fields):
    decoder = DecoderConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    data = f"shakespeare(roles='{', '.join(ROLES)}')"
    chosen = {"clients": 2, "local_steps": 1, "batch": 1, "seq": 16, "data": data}
    return RunConfig(decoder=decoder, **{**chosen, **fields})


def test_as_many_clients_as_nodes_are_drawn_unless_it_says_how_many():
    assert drawn(config(), 3).population == 3
    assert drawn(config(population=4), 3).population == 4


@pytest.mark.parametrize("nodes", [1, 9, 10, 16, 99])
@pytest.mark.parametrize(
    ("unseen", "clients"),
    [
        ("share(0.1)", lambda names: 0.1),
        ("share(0.0)", lambda names: 0.0),
        ("share(0.75)", lambda names: 0.75),
        ("last(2)", lambda names: names[-2:]),
    ],
)
def test_clients_that_are_held_out_come_beside_the_nodes(nodes, unseen, clients):
    population = drawn(config(unseen=unseen), nodes).population
    corpus = byte_corpus({f"client {i}": "to be or not to be, that is" for i in range(population)})
    split = hold_out(corpus, seed=0, clients=clients(corpus.names))
    assert len(split.train.names) == nodes


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"algorithm": "ditto(mu=0.5)"}, "whose model is the server's alone"),
        (
            {"algorithm": "split_lora(cut=1)", "adapter": "lora(rank=2)"},
            "whose model is the server's alone",
        ),
        (
            {"aggregate": "dp_fed_avg(clip=0.5, noise_multiplier=1.0)"},
            "aggregate: expected a rule without noise over Flower",
        ),
    ],
)
def test_methods_that_only_the_simulation_runs_are_refused(fields, reason):
    with pytest.raises(ValueError, match=reason):
        federated_run(config(**fields), cache=None)


def test_the_table_says_of_each_client_what_is_known():
    ann = ClientStatus("ann", False, 3, 2.5, 3, 2**20, 2**21, "")
    bob = ClientStatus("bob", True, 0, None, 0, 0, 2**21, "reply: expected one in time, got none.")
    console = Console(width=160, record=True, file=StringIO())
    console.print(clients_table(Status([{}] * 3, 5, [ann, bob])))
    shown = console.export_text()
    assert "round 3 of 5" in shown
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert ["ann", "up", "round 3", "2.500", "3", "1 MiB", "2 MiB", ""] in lines
    reason = "reply: expected one in time, got none."
    assert ["bob", "lost", "", "", "0", "0 MiB", "2 MiB", reason] in lines
