"""Uplinks that change during a run."""

import dataclasses

import jax
import numpy as np
import pytest

from fedjax_llm import DecoderConfig, RunConfig
from fedjax_llm.ledger import total_bytes
from fedjax_llm.runs import execute, prepare, rounds
from fedjax_llm.runs.execute import execute_together
from fedjax_llm.runs.federated.parts import check_applies
from fedjax_llm.simulation import vmap

LINK = "link(uplink=10e6, downlink=50e6)"
LOW, HIGH = (f"preconditioned(trellis_fixed(bits={bits}))" for bits in (0.1, 0.5))
BASE = RunConfig(
    rounds=3,
    clients=2,
    batch=1,
    seq=16,
    local_steps=2,
    data="shakespeare(roles='hamlet/HAMLET, macbeth/MACBETH, othello/IAGO')",
    decoder=DecoderConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1),
    client_optimizer="adam(0.01)",
    uplink=f"stages({LOW}, 2, {HIGH})",
)


def with_uplink(uplink, **fields):
    return dataclasses.replace(BASE, uplink=uplink, **fields)


def equal(one, other):
    return all(
        np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


@pytest.mark.slow
def test_each_stage_is_the_run_of_its_own_codec_from_where_the_last_one_ended():
    found = list(rounds(prepare(BASE), vmap()))
    first = list(rounds(prepare(with_uplink(LOW, rounds=2)), vmap()))
    then = list(rounds(prepare(with_uplink(HIGH)), vmap(), first[-1].snapshot()))
    assert [each.round for each in found] == [1, 2, 3]
    for mine, other in zip(found, first + then, strict=True):
        assert equal(mine.state.params, other.state.params)
        assert mine.messages == other.messages
    assert total_bytes(found[2].messages, "up") > 3 * total_bytes(found[1].messages, "up")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_resumes_in_either_stage_to_the_same_bits(stop):
    whole = list(rounds(prepare(BASE), vmap()))
    coming = rounds(prepare(BASE), vmap())
    for _ in range(stop):
        kept = next(coming).snapshot()
    coming.close()
    rest = list(rounds(prepare(BASE), vmap(), kept))
    assert [each.round for each in rest] == list(range(stop + 1, 4))
    assert equal(rest[-1].state, whole[-1].state)


@pytest.mark.slow
def test_rows_and_summary_count_the_bytes_of_each_stage():
    seen = []
    row = execute(prepare(BASE), seen.append)
    assert row["codec"] == BASE.uplink
    low, high = (execute(prepare(with_uplink(each)), lambda _: None) for each in (LOW, HIGH))
    by_round = [each["uplink_bytes_by_round"] for each in (low, low, high)]
    assert row["uplink_bytes_by_round"] == [mine[i] for i, mine in enumerate(by_round)]


@pytest.mark.parametrize(
    ("uplink", "said"),
    [
        ("stages(eden())", r"uplink: expected stages\(codec, rounds, codec\), got stages\(eden"),
        ("stages(eden(), 2.0, eden())", r"expected stages\(codec, rounds, codec\)"),
        ("stages(eden(), 1, 2)", r"expected stages\(codec, rounds, codec\)"),
        ("stages(eden(), 1, then=eden())", r"expected stages\(codec, rounds, codec\)"),
        ("stages(eden(), 3, eden())", "to have 1 to 2 of the run's 3 rounds, got 3"),
        ("stages(eden(), 0, eden())", "to have 1 to 2 of the run's 3 rounds, got 0"),
        ("stages(nothing(), 1, eden())", "uplink: .*nothing"),
        ("stages(stages(eden(), 1, eden()), 1, eden())", "uplink: .*stages"),
        (
            "stages(eden(bits=1), 1, error_feedback(eden(bits=1)))",
            "states of one form at the server and at clients, .* got eden.* and error_feedback",
        ),
    ],
)
def test_stages_that_cannot_run_are_refused_by_name(uplink, said):
    with pytest.raises(ValueError, match=said):
        prepare(with_uplink(uplink))


def test_what_runs_in_one_stage_alone_refuses_several():
    with pytest.raises(ValueError, match="buffer: expected none with stages of the uplink, got 2"):
        prepare(with_uplink("stages(eden(bits=1), 1, eden(bits=2))", buffer=2, link=LINK))
    with pytest.raises(ValueError, match="uplink: expected one codec over Flower"):
        check_applies(BASE)
    run = prepare(with_uplink("stages(eden(bits=1), 1, eden(bits=2))", client_axis="vmap()"))
    with pytest.raises(ValueError, match="together: expected an uplink that stays the same"):
        execute_together([run, run], lambda row: None)
