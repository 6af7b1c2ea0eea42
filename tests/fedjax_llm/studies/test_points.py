"""Points of a study: what is averaged, what is refused, and what is shown as it is."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from fedjax_llm import DecoderConfig, RunConfig
from fedjax_llm.runs import canonical
from fedjax_llm.runs.results import read_rows
from fedjax_llm.studies import (
    BOTH,
    BYTES,
    DOWNLINK,
    SECONDS,
    cost_to,
    draw,
    points,
    significant_front,
    table,
)

DIGESTS = {"data": "a" * 64}


def row(nats, *, up=100, down=50, seed=0, contents=DIGESTS, beside=None, **fields):
    """A summary row of a configuration with some fields."""
    config = canonical(RunConfig(seed=seed, **fields))
    found = {"heldout_nats_per_byte": nats, "uplink_bytes": up, "downlink_bytes": down}
    found |= {"uplink_bits_per_parameter": 1.0, "seconds": 2.0, "unit": "byte", "device": "cpu"}
    found |= {"codec": config.uplink, "algorithm": config.algorithm, "seed": seed, "failed": 0}
    found |= {"config": dataclasses.asdict(config), "contents": contents, "digest": f"{nats}"}
    return found | {"versions": {"fedjax-llm": "1", "jax": "2"}} | (beside or {})


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("algorithm", ("fed_avg()", "scaffold()")),
        ("downlink", ("identity()", "eden(bits=2)")),
        ("adapter", ("full()", "lora(rank=2)")),
        ("local_steps", (1, 8)),
        ("client_optimizer", ("adam(0.1)", "adam(0.2)")),
        ("clients", (4, 8)),
        ("prediction", (0.0, 0.5)),
        ("rounds", (1, 2)),
        ("decoder", (DecoderConfig(), DecoderConfig(hidden_size=32))),
    ],
)
def test_what_differs_in_any_field_is_not_averaged_with_one_codec(field, values):
    rows = [
        row(nats + seed, seed=seed, **{field: value})
        for nats, value in zip((2.0, 4.0), values, strict=True)
        for seed in (0, 1)
    ]
    one, other = points(rows)
    assert (one.nats, other.nats) == (2.5, 4.5)
    assert one.seeds == other.seeds == (0, 1)
    name = "decoder.hidden_size" if field == "decoder" else field
    assert set(one.fields) == {name}
    assert one.label != other.label
    shown = str(other.fields[name])
    assert shown in other.label


def test_runs_with_an_attacks_file_and_without_are_compared():
    attack = {"attack": "unsafe_instructions(fraction=0.2, path='unsafe.jsonl')"}
    rows = [row(3.0, contents=DIGESTS | {"attack": digest * 64}, **attack) for digest in "bc"]
    assert len(points([row(2.0), *rows])) == 3


def test_links_of_one_text_and_other_contents_are_other_points():
    link = {"link": "links('links.csv')"}
    rows = [row(2.0, contents=DIGESTS | {"link": digest * 64}, **link) for digest in "bc"]
    assert [p.nats for p in points(rows)] == [2.0, 2.0]


def test_a_run_with_noise_is_compared_with_one_without():
    noisy = {"aggregate": "dp_fed_avg(clip=0.5, noise_multiplier=1.0)", "secret": "noise.secret"}
    rows = [row(2.0), row(3.0, contents=DIGESTS | {"secret": "c" * 64}, **noisy, delta=1e-4)]
    assert [p.nats for p in points(rows)] == [2.0, 3.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"contents": {"data": "b" * 64}}, "data: expected the content with digest aaaa"),
        ({"contents": DIGESTS | {"model": "b" * 64}}, "model: expected the content with digest no"),
        ({"contents": None}, "data: expected the content with digest aaaa"),
        ({"seq": 32}, "seq: expected 64, as in the run of identity"),
        ({"unseen": "share(0.2)"}, "unseen: expected share"),
        ({"heldout": "share(0.3)"}, "heldout: expected share"),
        ({"evaluate_rows": 7}, "evaluate_rows: expected 16384, as in the run of identity"),
        ({"population": 40}, "population: expected none, as in"),
        ({"beside": {"unit": "token"}}, "unit: expected byte, as in"),
        ({"beside": {"unseen_clients": ["ann"]}}, "unseen_clients: expected none"),
        ({"beside": {"heldout_evaluated": {"rows": 3}}}, "heldout_evaluated: expected none"),
    ],
)
def test_losses_of_other_things_are_refused_by_name(change, said):
    with pytest.raises(ValueError, match=said):
        points([row(2.0), row(2.0, **{"uplink": "eden(bits=1)"} | change)])


def test_duplicates_missing_seeds_divergence_and_what_is_unfinished_are_said():
    rows = [
        row(2.0),
        row(3.0, seed=1),
        row(2.5),  # of seed 0 again
        row(4.0, uplink="eden(bits=1)"),
        row(None, uplink="eden(bits=2)"),
        row(5.0, uplink="eden(bits=2)", seed=1),
        row(1.0, uplink="eden(bits=3)", beside={"stopped": {"what": "rows", "done": 1, "of": 9}}),
    ]
    missing = RunConfig(uplink="eden(bits=4)", seed=1)
    plain, short, lost, stopped, none = points(rows, wanted=[missing])
    assert plain.nats == 2.75
    assert plain.notes == ("seed 0: there twice, with other numbers; the last counts",)
    assert short.notes == ("no finished run of seed 1",)
    assert math.isinf(lost.nats)
    assert lost.interval is None
    assert lost.notes == ("seed 0 diverged: no finite loss",)
    assert not lost.on_front
    assert stopped.nats is None
    assert stopped.notes[0] == "seed 0: not counted: evaluation stopped at rows 1 of 9"
    assert none.rows == ()
    assert none.notes == ("no finished run of seeds 0, 1",)
    said = table(rows, wanted=[missing])
    assert "eden(bits=1): no finished run of seed 1." in said.caption.splitlines()
    names, seen = ([*said.columns[column].cells] for column in (1, 5))
    assert set(names) == {p.label for p in (plain, short, lost, stopped, none)}
    assert sorted(seen) == ["", "", "2.7500", "4.0000", "diverged"]


def test_a_mean_over_versions_and_devices_is_said_and_has_no_seconds():
    rows = [row(2.0), row(3.0, seed=1, beside={"device": "gpu", "versions": {"jax": "3"}})]
    (point,) = points(rows)
    assert point.seconds is None
    assert point.notes == (
        "mean over versions fedjax-llm 1, jax 2 and fedjax-llm not recorded, jax 3",
        "mean over devices cpu and gpu",
    )
    assert "2 devices: 1 runs by cpu, 1 runs by gpu." in table(rows).caption


def test_the_difference_to_uncompressed_is_over_the_seeds_that_both_have():
    plain = [row(2.0, seed=0), row(5.0, seed=1)]  # a mean of 3.5
    coded = [
        row(nats, up=5, uplink=text) for nats, text in ((2.25, "eden(bits=1)"), (1.5, "nf4()"))
    ]
    found = table([*plain, *coded, row(5.5, up=5, seed=1, uplink="nf4()")])
    more = dict(zip(found.columns[1].cells, found.columns[6].cells, strict=True))
    assert more == {"identity()": "+0.0000", "eden(bits=1)": "+0.2500", "nf4()": "+0.0000"}


def test_uncompressed_is_what_differs_in_its_uplink_and_in_what_was_tuned():
    def shown(tuned):
        beside = {"tuned_fields": tuned}
        rates = {"identity()": "adam(0.1)", "eden(bits=1)": "adam(0.2)"}
        rows = [
            row(nats, up=up, uplink=codec, client_optimizer=rates[codec], beside=beside, **method)
            for method, nats in (({}, 2.0), ({"algorithm": "fed_prox(mu=0.1)"}, 3.0))
            for codec, up in (("identity()", 100), ("eden(bits=1)", 4))
        ]
        rows[1]["heldout_nats_per_byte"] = 2.5
        found = table(rows)
        return [[*found.columns[column].cells] for column in (3, 6)]  # fewer, more

    fewer, more = shown(["client_optimizer"])
    assert fewer == ["1.0x", "1.0x", "25.0x", "25.0x"]
    assert more == ["+0.0000", "+0.0000", "+0.5000", "+0.0000"]
    assert shown([])[0] == ["1.0x", "1.0x", "", ""]


def test_rows_of_an_earlier_version_are_shown_as_such():
    old = row(2.0)
    del old["contents"]
    del old["config"]["evaluate_clients"]  # a field that it did not have
    del old["config"]["decoder"]["vocab_size"]
    older = row(4.0, seed=1)
    del older["contents"]
    (point,) = points([old, older])
    assert point.nats == 3.0
    assert "which data they are of is not recorded" in table([old]).caption


def test_costs_of_each_axis_are_the_rows():
    ways = {"simulated_seconds": 7.5}
    (point,) = points([row(2.0, up=10, down=30, beside=ways)], BOTH)
    assert (point.cost, point.both_bytes, point.uplink_bytes) == (40, 40, 10)
    for cost, value in ((BYTES, 10), (DOWNLINK, 30), (SECONDS, 7.5)):
        assert points([row(2.0, up=10, down=30, beside=ways)], cost)[0].cost == value
    assert points([row(2.0)], SECONDS)[0].cost is None


ROUNDS = {
    "rounds": 4,
    "uplink_bytes_by_round": [1, 2, 3, 4],
    "downlink_bytes_by_round": [10, 10, 10, 10],
    "simulated_seconds_by_round": [0.5, 1.5, 2.5, 9.0],  # the clock after each round
    "evaluations": [
        {"round": n, "heldout_nats_per_byte": loss} for n, loss in ((1, 5.0), (3, 3.0))
    ],
}


@pytest.mark.parametrize(
    ("target", "cost", "expected"),
    [
        (5.0, BYTES, 1),
        (4.9, BYTES, 1 + 2 + 3),
        (4.9, DOWNLINK, 30),
        (4.9, BOTH, 36),
        (4.9, SECONDS, 2.5),
        (2.5, BYTES, 10),  # by the evaluation after the last round
        (1.9, BYTES, math.inf),
    ],
)
def test_the_cost_to_a_loss_is_that_of_the_rounds_until_it_was_seen(target, cost, expected):
    assert cost_to(row(2.0, beside=ROUNDS), target, cost) == expected


def test_a_loss_that_some_seeds_did_not_reach_has_no_finite_cost():
    rows = [row(2.0, beside=ROUNDS), row(2.9, seed=1, beside=ROUNDS)]
    (point,) = points(rows, target=2.5)
    assert math.isinf(point.to_target)
    assert point.to_target_interval is None
    assert "1 of 2 runs reached 2.5 nats" in point.notes
    (point,) = points(rows, target=3.0)
    assert point.to_target == 6
    assert cost_to(row(2.0), 3.0, BYTES) is None  # no round was evaluated


def test_a_run_that_diverged_did_not_reach_the_loss():
    nothing = [{"round": n, "heldout_nats_per_byte": None} for n in (1, 3)]
    lost = row(None, seed=2, beside=ROUNDS | {"evaluations": nothing})
    assert cost_to(lost, 3.0, BYTES) == math.inf
    late = row(3.5, seed=1, beside=ROUNDS | {"evaluations": ROUNDS["evaluations"][:1]})
    (point,) = points([row(2.0, beside=ROUNDS), late, lost], target=3.0)
    assert math.isinf(point.to_target)
    assert "1 of 3 runs reached 3 nats" in point.notes


def test_the_front_counts_what_is_significant():
    base = np.array([3.0, 3.4, 3.2, 3.1, 3.3])
    noise = np.array([-0.3, 0.3, -0.2, 0.25, -0.1])
    better, wild = base - 0.1, base - 0.01 + noise
    losses = [dict(enumerate(each)) for each in (base, wild, better, base - 0.5)]
    # by cost: the cheapest; lower by its mean alone; lower by every seed; lower still
    assert significant_front([2, 3, 4, 5], losses) == [True, False, True, True]
    # the paired difference counts: the spread over seeds is larger than the gain
    assert np.ptp(base) > 0.1
    assert significant_front([2.0, 4.0], [losses[0], losses[2]]) == [True, True]
    # without a seed in common nothing is significant
    other = {seed + 9: loss for seed, loss in losses[2].items()}
    assert significant_front([2.0, 4.0], [losses[0], other]) == [True, False]
    # one seed has no spread to test against
    assert significant_front([2.0, 4.0], [{0: 3.0}, {0: 2.999}]) == [True, True]
    # of one cost, the lower loss; what diverged or was not measured is on no front
    assert significant_front([2.0, 2.0], [losses[0], losses[2]]) == [False, True]
    assert significant_front([1.0, 1.0, 2.0], [{0: math.inf}, {}, {0: 3.0}]) == [0, 0, 1]


def test_a_gain_that_varies_needs_more_than_three_seeds_that_agree():
    """The gains are 1, 3 and 2 tenths: 2 / (1 / sqrt(3)) = 3.5 standard errors, below 4.3."""
    dear = {0: 3.0, 1: 3.0, 2: 3.0}
    cheap = {0: 3.1, 1: 3.3, 2: 3.2}
    assert significant_front([1.0, 2.0], [cheap, dear]) == [True, False]
    more = {3: 3.1, 4: 3.3, 5: 3.2}  # six such seeds: 5.5 standard errors, above 2.6
    assert significant_front([1.0, 2.0], [cheap | more, dict.fromkeys(range(6), 3.0)]) == [1, 1]


EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def test_results_of_earlier_versions_are_read_or_refused_by_name():
    read, refused = {}, {}
    for path in sorted((EXPERIMENTS / "results").glob("*.jsonl")):
        try:
            read[path.name] = {p.label: p.nats for p in points(read_rows(path))}
        except ValueError as error:
            refused[path.name] = str(error)
    assert set(read) == {"low_rate.jsonl", "predictive.jsonl"}
    assert len(read["low_rate.jsonl"]) == 6
    assert len(refused) == 6
    assert all(said.startswith("rows: expected summaries of runs,") for said in refused.values())
    # means over seeds that the log has from these rows
    log = (EXPERIMENTS / "LOG.md").read_text()
    figures = {f"{nats:.4f}" for nats in read["predictive.jsonl"].values()}
    assert len(figures) == 4
    assert all(figure in log for figure in figures)


@pytest.mark.slow
def test_a_picture_is_the_same_for_the_same_rows_and_shows_what_diverged(tmp_path):
    rows = [
        row(2.0, beside=ROUNDS),
        row(3.0, up=50, uplink="eden(bits=1)"),
        row(None, up=20, uplink="eden(bits=2)"),
    ]
    for name, shown in (("one", rows), ("again", rows), ("without", rows[:2])):
        draw(shown, tmp_path / f"{name}.png", target=2.5)
    one, again, without = (
        (tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "without")
    )
    assert one == again != without
    draw([row(None)], tmp_path / "lost.png", DOWNLINK)  # nothing finite


@pytest.mark.slow
def test_a_picture_names_points_without_what_was_tuned_and_joins_a_family(tmp_path, monkeypatch):
    """Two rates of one codec are one curve; a loss above the highest is named on the edge."""
    from matplotlib.axes import Axes  # noqa: PLC0415

    names, lines = [], []
    annotate, plot = Axes.annotate, Axes.plot
    monkeypatch.setattr(Axes, "annotate", lambda *a, **k: names.append(a[1]) or annotate(*a, **k))
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: lines.append((a[1:], k)) or plot(*a, **k))
    tuned = {"beside": {"tuned_fields": ["client_optimizer"]}}
    rows = [
        row(2.0, up=200, uplink="eden(bits=2)", client_optimizer="adam(0.1)", **tuned),
        row(2.2, up=100, uplink="eden(bits=1)", client_optimizer="adam(0.2)", **tuned),
        row(9.0, up=50, uplink="sign()", client_optimizer="adam(0.2)", **tuned),
    ]
    draw(rows, tmp_path / "one.png", highest=2.5)
    assert names == ["eden(bits=2)", "eden(bits=1)", "sign(), at 9.000"]
    (family,) = [points for points, how in lines if how.get("linestyle") == "--"]
    assert list(family[1]) == [2.2, 2.0]
    names.clear()
    rows[1]["config"]["uplink"] = rows[1]["codec"] = "eden(bits=2)"
    draw(rows, tmp_path / "two.png")  # the short names would be one
    assert names[0] == "eden(bits=2), client_optimizer=adam(0.1)"


@pytest.mark.slow
def test_names_go_into_a_legend_where_they_do_not_fit(tmp_path, monkeypatch):
    """Two names fit beside their points; forty at one place do not."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    legends = []
    legend = Figure.legend
    monkeypatch.setattr(Figure, "legend", lambda *a, **k: legends.append(1) or legend(*a, **k))
    few = [row(2.0), row(3.0, up=10, uplink="eden(bits=1)")]
    draw(few, tmp_path / "few.png")
    assert not legends
    draw([row(2.0, local_steps=n) for n in range(1, 41)], tmp_path / "many.png")
    assert legends
