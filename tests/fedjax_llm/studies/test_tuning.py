"""Tuning: the same budget for all, on clients that no reported run reads."""

import dataclasses
import math

import pytest

from fedjax_llm import Named, RunConfig, Tuning
from fedjax_llm.data import Example, reported_clients, tuning_clients
from fedjax_llm.runs import prepare
from fedjax_llm.studies import successive_halving
from fedjax_llm.studies.tuning import candidates_of
from tests.helpers.a_study import base, rates


def test_halving_keeps_the_better_half_for_twice_the_rounds():
    """Seven candidates at 3 rounds: 7 x 3, 4 x 6, 2 x 12 and one is left, as by hand."""
    true = [5.0, 4.0, 3.0, 9.0, 1.0, 8.0, 2.0]
    asked = []

    def measure(which, rounds):
        asked.append((list(which), rounds))
        return [true[number] for number in which]

    best, rungs = successive_halving(7, measure, rounds=3)
    assert asked == [([0, 1, 2, 3, 4, 5, 6], 3), ([1, 2, 4, 6], 6), ([4, 6], 12)]
    assert best == 4
    assert rungs == [(rounds, {n: true[n] for n in which}) for which, rounds in asked]


def test_a_later_rung_decides_and_a_diverged_candidate_loses():
    def measure(which, rounds):  # the first is better early, the second late
        return [{0: 1.0, 1: 2.0, 2: math.nan, 3: math.inf}[n] if rounds == 1 else -n for n in which]

    best, rungs = successive_halving(4, measure, rounds=1)
    assert (best, list(rungs[1][1])) == (1, [0, 1])
    assert rungs[0][1][2] == math.inf


def test_where_all_survivors_diverge_the_best_of_those_left_out_is_taken():
    def measure(which, rounds):  # the two that are best early are too fast for more rounds
        return [[2.0, 2.1, 2.3, 2.2][n] if rounds == 1 else math.inf for n in which]

    best, rungs = successive_halving(4, measure, rounds=1)
    assert (best, [list(losses) for _, losses in rungs]) == (3, [[0, 1, 2, 3], [0, 1]])
    assert successive_halving(2, lambda which, _: [math.nan] * len(which), rounds=1)[0] == 0


def test_without_halving_the_best_of_one_rung_is_taken():
    asked = []

    def measure(which, rounds):
        asked.append((list(which), rounds))
        return [3.0, math.nan, 1.0, 1.0]

    assert successive_halving(4, measure, rounds=5, halve=False) == (
        2,
        [(5, {0: 3.0, 1: math.inf, 2: 1.0, 3: 1.0})],
    )
    assert asked == [([0, 1, 2, 3], 5)]


@pytest.mark.parametrize("names", [2, 5, 30])
def test_the_two_parts_are_disjoint_and_together_everyone(names):
    records = {f"client {n}": [Example(str(n))] for n in range(names)}
    for seed in range(3):
        aside = tuning_clients(records, share=0.3, seed=seed)
        left = reported_clients(records, share=0.3, seed=seed)
        assert aside | left == records
        assert not aside.keys() & left.keys()
        assert len(aside) == max(1, int(names * 0.3))
    assert tuning_clients(records, seed=1) == tuning_clients(records, seed=1)


@pytest.mark.parametrize("part", [tuning_clients, reported_clients])
def test_a_part_of_one_client_is_refused(part):
    with pytest.raises(ValueError, match=rf"{part.__name__}: expected at least two clients"):
        part({"ann": []})
    with pytest.raises(ValueError, match=rf"{part.__name__}: share: expected .* above 0"):
        part({"ann": [], "bob": []}, share=0)


@pytest.mark.slow
def test_tuning_runs_read_no_client_of_the_reported_runs():
    tuning = Tuning(candidates=rates, rounds=7, share=0.4, seed=3)
    config = dataclasses.replace(base, clients=3)  # all three that are reported
    trial, reported = (prepare(c) for c in (*tuning.trials([config]), tuning.reported(config)))
    seen = [
        set(run.split.train.names) | set(run.evaluated.heldout.names) for run in (trial, reported)
    ]
    assert [len(names) for names in seen] == [2, 3]
    assert not seen[0] & seen[1]
    assert trial.evaluated.heldout.names
    assert (trial.config.rounds, trial.config.seed, trial.config.clients) == (7, 3, 2)
    assert reported.config.rounds == config.rounds


def test_tuning_runs_are_judged_by_no_text_that_is_reported():
    own = "jsonl('heldout.jsonl', fields(text='text'))"
    fields = {
        "heldout": own,
        "unseen": "named('othello/IAGO')",
        "population": 3,
        "target_loss": 1.0,
    }
    config = dataclasses.replace(base, **fields)
    (trial,) = Tuning(candidates=rates).trials([config])
    assert (trial.heldout, trial.unseen) == ("share(0.1)", "share(0.1)")
    assert trial.population is trial.target_loss is trial.evaluate_every is None
    shares = dataclasses.replace(base, heldout="share(0.3)", unseen="share(0.2)")
    (trial,) = Tuning(candidates=rates).trials([shares])
    assert (trial.heldout, trial.unseen) == ("share(0.3)", "share(0.2)")


def test_data_of_ones_own_is_divided_too():
    records = {name: [Example(f"{name} writes. " * 40)] for name in "abcde"}
    config = dataclasses.replace(base, data=Named("mine()", records))
    tuning = Tuning(candidates=rates, share=0.4)
    trial, reported = tuning.trials([config])[0].data, tuning.reported(config).data
    assert (trial, reported) == (
        "tuning_clients(mine(), seed=0, share=0.4)",
        "reported_clients(mine(), seed=0, share=0.4)",
    )
    assert trial.value | reported.value == records


def test_candidates_are_all_combinations_of_what_a_method_needs():
    both = Tuning(
        candidates={
            "client_optimizer": ("adam(1.0)", "sgd(1.0)"),
            "server_optimizer": ("sgd(0.5)",),
        }
    )
    found = both.of(base)
    assert [(c.client_optimizer, c.server_optimizer) for c in found] == [
        ("adam(1.0)", "sgd(0.5)"),
        ("sgd(1.0)", "sgd(0.5)"),
    ]
    without = dataclasses.replace(base, algorithm="fed_sgd()")
    assert [c.client_optimizer for c in both.of(without)] == [None]
    with pytest.raises(ValueError, match=r"got 2 for fed_avg.* and 1 for fed_sgd"):
        candidates_of(both, [base, without])
    own = Tuning(candidates=lambda config: [dataclasses.replace(config, prediction=0.5)] * 2)
    assert [c.prediction for c in own.of(without)] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"candidates": {"rate": (1,)}}, "tune: candidates: expected fields of RunConfig but the"),
        ({"candidates": {"seed": (1,)}}, "but the seed, got 'seed'"),
        ({"candidates": {"uplink": "eden()"}}, "uplink: expected a list of at least one value"),
        (
            {"candidates": {"uplink": ()}},
            r"uplink: expected a list of at least one value, got \(",
        ),
        (
            {"candidates": rates, "rounds": 0},
            "tune: rounds: expected .*, got 0",
        ),
        ({"candidates": rates, "share": 1.0}, "tune: share: expected a number .*, got 1.0"),
        ({"candidates": rates, "seed": -1}, "tune: seed: expected an integer .*, got -1"),
    ],
)
def test_bad_tuning_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Tuning(**fields)


def test_the_default_configuration_is_tuned_too():
    assert len(Tuning(candidates=rates).of(RunConfig())) == 3
