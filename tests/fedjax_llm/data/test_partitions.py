"""Partitions: each example once, by a seed, with the promised sizes and skew."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_llm.data import (
    Example,
    Message,
    by_key,
    dirichlet,
    draw_partition,
    iid,
    label_shards,
    log_normal,
    partition,
    partition_table,
    pooled,
    power_law,
)

PARTITIONS = {
    "iid": iid,
    "dirichlet": partial(dirichlet, alpha=1.0),
    "label_shards": label_shards,
    "log_normal": partial(log_normal, sigma=1.0),
    "power_law": partial(power_law, exponent=1.0),
}


def pool(count, *, labels=10):
    return [Example(f"text {i}", f"label {i * labels // count}") for i in range(count)]


def sizes(dealt):
    return [len(own) for own in dealt.values()]


@pytest.mark.parametrize("name", PARTITIONS)
@settings(deadline=None, max_examples=25)
@given(count=st.integers(2, 60), clients=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_every_example_is_dealt_once_or_an_empty_client_is_named(name, count, clients, seed):
    examples = pool(count, labels=2)
    try:
        dealt = PARTITIONS[name](examples, clients=clients, seed=seed)
    except ValueError as error:
        assert any(text in str(error) for text in ("got none; use", "expected 1 to"))  # noqa: PT017
        return
    assert sorted(pooled(dealt)) == sorted(examples)
    assert len(dealt) == clients
    assert min(sizes(dealt)) >= 1


@pytest.mark.parametrize("name", PARTITIONS)
def test_a_partition_depends_on_its_seed_alone(name):
    examples = pool(400)
    dealt = PARTITIONS[name](examples, clients=7, seed=3)
    assert dealt == PARTITIONS[name](examples, clients=7, seed=3)
    assert dealt != PARTITIONS[name](examples, clients=7, seed=4)
    assert list(dealt) == [f"client {i}" for i in range(7)]


@pytest.mark.parametrize("name", PARTITIONS)
def test_a_clients_examples_are_in_no_order_of_labels(name):
    own = max(PARTITIONS[name](pool(400), clients=4, seed=0).values(), key=len)
    labels = [example.label for example in own]
    assert len(set(labels)) == 1 or labels != sorted(labels)


@pytest.mark.parametrize("name", PARTITIONS)
def test_more_clients_than_examples_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name}: .*expected 1 to"):
        PARTITIONS[name](pool(4, labels=2), clients=5, seed=0)


def test_iid_is_even():
    dealt = iid(pool(1003), clients=10, seed=0)
    assert sorted(sizes(dealt)) == [100] * 7 + [101] * 3
    assert max(part.skew for part in partition(dealt)) < 0.2


def test_dirichlet_is_as_skewed_as_alpha_says():
    examples = pool(20_000)
    skew = [
        np.mean([p.skew for p in partition(dirichlet(examples, clients=20, alpha=a, seed=0))])
        for a in (0.1, 1.0, 1000.0)
    ]
    assert skew[0] > 0.6 > skew[1] > 0.25
    assert skew[2] < 0.05


@pytest.mark.slow
def test_dirichlet_shares_have_the_variance_of_the_distribution():
    clients, alpha = 10, 0.5
    shares = np.concatenate(
        [
            [part.labels["label 0"] / 2000 for part in partition(dealt)]
            for seed in range(40)
            for dealt in [dirichlet(pool(4000, labels=2), clients=clients, alpha=alpha, seed=seed)]
        ]
    )
    mean = 1 / clients
    variance = mean * (1 - mean) / (clients * alpha + 1)
    assert shares.mean() == pytest.approx(mean)
    assert shares.var() == pytest.approx(variance, rel=0.25)


def test_an_empty_client_is_named_with_a_remedy():
    with pytest.raises(
        ValueError, match=r"dirichlet: client 'client \d+': expected .*, got none; use a large"
    ):
        dirichlet(pool(60, labels=2), clients=50, alpha=0.01, seed=0)
    with pytest.raises(
        ValueError, match=r"power_law: client 'client \d+': expected .*, got none; use less"
    ):
        power_law(pool(60), clients=50, exponent=3.0, seed=0)


def test_a_client_of_two_shards_has_two_labels():
    dealt = label_shards(pool(1000), clients=50, shards=2, seed=0)
    assert set(sizes(dealt)) == {20}
    assert max(len({e.label for e in own}) for own in dealt.values()) == 2
    with pytest.raises(
        ValueError, match="expected 1 to 20 shards for each of 50 clients, as there"
    ):
        label_shards(pool(1000), clients=50, shards=21, seed=0)


def test_sizes_follow_their_laws():
    ranked = sizes(power_law(pool(10_000), clients=20, exponent=1.0, seed=0))
    law = 1 / np.arange(1, 21)
    np.testing.assert_allclose(ranked, 10_000 * law / law.sum(), atol=1)
    logs = np.log(sizes(log_normal(pool(100_000), clients=200, sigma=0.7, seed=0)))
    assert logs.std() == pytest.approx(0.7, rel=0.15)
    assert set(sizes(log_normal(pool(100), clients=10, sigma=0.0, seed=0))) == {10}


def test_partitions_by_label_need_two_labels():
    for deal in (label_shards, PARTITIONS["dirichlet"]):
        with pytest.raises(ValueError, match="expected at least two labels, got only 'label 0'"):
            deal(pool(10, labels=1), clients=2, seed=0)


@pytest.mark.parametrize(
    ("deal", "message"),
    [
        (partial(dirichlet, alpha=0.0), "dirichlet: alpha: expected a number above 0, got 0.0"),
        (
            partial(dirichlet, alpha=float("nan")),
            "dirichlet: alpha: expected a finite number above 0, got nan",
        ),
        (
            partial(log_normal, sigma=-1.0),
            "log_normal: sigma: expected a number at least 0, got -1.0",
        ),
        (
            partial(power_law, exponent=-1.0),
            "power_law: exponent: expected a number at least 0, got -1.0",
        ),
    ],
)
def test_hyper_parameters_are_checked(deal, message):
    with pytest.raises(ValueError, match=message):
        deal(pool(10), clients=2, seed=0)


def test_a_key_makes_a_client():
    dealt = by_key(pool(20, labels=2), lambda example: example.label)
    assert {client: len(own) for client, own in dealt.items()} == {"label 0": 10, "label 1": 10}


@pytest.mark.slow
def test_the_table_and_the_picture_show_each_clients_examples(tmp_path):
    chat = (Message("user", "abc"), Message("assistant", "de"))
    dealt = {"b": [Example("four", "x"), Example(chat, "y")], "a": [Example("one", "x")]}
    first, second = partition(dealt)
    assert first == ("a", 1, 3, {"x": 1, "y": 0}, pytest.approx(1 / 3))
    assert second == ("b", 2, 9, {"x": 1, "y": 1}, pytest.approx(1 / 6))
    table = partition_table(dealt)
    assert [column.header for column in table.columns][-2:] == ["x", "y"]
    assert list(table.columns[1].cells) == ["1", "2"]
    for name in ("one.png", "two.png"):
        draw_partition(dealt, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    draw_partition(iid(pool(100), clients=50, seed=0), tmp_path / "many.png")
    with pytest.raises(ValueError, match="client 'c': expected at least one example, got none"):
        partition({**dealt, "c": []})
