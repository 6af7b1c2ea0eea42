"""Simulated time: links, deadlines and availability, against numbers worked by hand."""

import functools
import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_compression import codec

from fedjax_llm import fed_avg
from fedjax_llm.algorithms.lora import flexlora, hetlora
from fedjax_llm.data import Batching, from_arrays, masked_mean
from fedjax_llm.simulation import (
    CompiledRounds,
    Conditions,
    chunked,
    deadline,
    diurnal,
    faults,
    link,
    links,
    scan,
    sharded,
    simulate,
    trace,
    vmap,
)
from fedjax_llm.simulation.conditions.availability import available, wait_for
from fedjax_llm.simulation.conditions.deadline import Deadline, duration, late
from fedjax_llm.simulation.conditions.network import arrivals

BATCHING = Batching(seq=16, batch=2, steps=3)
ALL, PARTS = vmap(), chunked(2)
SLOW = link(uplink=1e4, downlink=1e5, latency=0.5, step=2.0)


@pytest.fixture(scope="module")
def run(task, corpus):
    compiled = CompiledRounds()

    @functools.cache
    def algorithm(text):
        return fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.5), uplink=codec(text))

    def rounds(*, text="identity()", rounds=2, clients=4, axis=ALL, start=None, **conditions):
        return [
            (r, r.snapshot())
            for r in simulate(
                *(algorithm(text), task.params, task.frozen, corpus, BATCHING),
                **{"rounds": rounds, "clients": clients, "seed": 0, "client_axis": axis},
                start=start,
                conditions=Conditions(**conditions),
                compiled=compiled,
            )
        ]

    return rounds


@pytest.fixture(scope="module")
def size(task):
    """Bytes of a message of all parameters."""
    return 12 + 4 * sum(leaf.size for leaf in jax.tree.leaves(task.params))


def table(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def speeds(tmp_path, corpus):
    """Links on which client i takes i + 1 seconds per step and messages take no time."""
    rows = [f"{name},1e300,1e300,0,{i + 1}" for i, name in enumerate(corpus.names)]
    return links(table(tmp_path / "links.csv", "client,uplink,downlink,latency,step", *rows))


def test_an_answer_takes_two_latencies_both_messages_and_the_steps():
    two = link(uplink=1000, downlink=8000, latency=0.25, step=2).links(["a", "b"])
    seconds = arrivals(two, down=2000, steps=np.array([3, 0]), up=np.array([500, 0]))
    assert seconds.tolist() == [0.5 + 2 + 6 + 4, 0.5 + 2]


@pytest.mark.slow
def test_a_round_takes_as_long_as_its_slowest_client(run, size):
    one, two = run(network=SLOW)
    seconds = 1.0 + 8 * size / 1e5 + 8 * size / 1e4 + 3 * 2.0
    assert one[0].seconds == pytest.approx(seconds)
    assert two[0].seconds == pytest.approx(2 * seconds)
    assert two[1].seconds == two[0].seconds


@pytest.mark.slow
def test_seconds_come_from_the_bytes_that_were_sent(run, size):
    """The length of an entropy-coded message differs between clients."""
    ((one, _),) = run(text="entropy_coded(rate=2)", network=SLOW, rounds=1)
    most = max(e.payload_bytes + 12 for e in one.messages if e.direction == "up")
    assert most < size / 8
    assert one.seconds == pytest.approx(1.0 + 8 * size / 1e5 + 8 * most / 1e4 + 6.0)


def test_a_table_of_links_may_be_csv_or_json_lines(tmp_path):
    csv = table(tmp_path / "a.csv", "client,uplink,downlink,step", "a,1,2,3", "b,4e6,5,")
    lines = table(
        tmp_path / "a.jsonl",
        '{"client": "a", "uplink": 1, "downlink": 2, "step": 3}',
        '{"client": "b", "uplink": 4e6, "downlink": 5}',
    )
    for path in (csv, lines):
        found = links(path).links(["b", "a"])
        assert [leaf.tolist() for leaf in found] == [[4e6, 1], [5, 2], [0, 0], [0, 3]]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_links_and_traces_are_read_alike_from_every_file(tmp_path, ending, mark, packed):
    rows = [{"client": 1, "uplink": 2, "downlink": 3, "start": 0, "end": 9}]
    rows.append({"client": "ann b", "uplink": 4, "downlink": 5, "start": 1, "end": 2})
    lines = [json.dumps(row) for row in rows]
    written = {
        "t.csv": ["client, uplink,downlink,start,end", "1,2,3,0,9", '"ann b",4, 5,1,2', ""],
        "t.jsonl": lines,
        "t.json": ["[", lines[0], ",", lines[1], "]"],
    }
    for name, text in written.items():
        path = tmp_path / name
        path.write_bytes(packed(mark + ending.join(text).encode()))
        assert links(str(path)).links(["ann b", "1"]).uplink.tolist() == [4, 2]
        assert trace(str(path)).windows(["1", "ann b"]).end.tolist() == [9, 2]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "t.csv",
            "a,0,1,0,0",
            "line 3: uplink: expected a number of bits per second above 0, got 0",
        ),
        ("t.csv", "a,1,x,0,0", "line 3: downlink: expected a number, got 'x'"),
        (
            "t.csv",
            "a,1,1,-1,0",
            "line 3: latency: expected a finite number of seconds of at least 0, got -1",
        ),
        (
            "t.csv",
            "a,1,1,0,nan",
            "line 3: step: expected a finite number of seconds of at least 0, got nan",
        ),
        (
            "t.csv",
            "b,1,1,0,0",
            "line 3: client: expected the name of a client without an earlier row, got 'b'",
        ),
        ("t.csv", "a,1", "line 3: downlink: expected a number, got None"),
        ("t.csv", 'a,"1', "expected a CSV table, got an error: "),
        ("t.csv", "a,1,1,0,0,9", "line 3: expected 5 values, as in the header, got 6"),
        ("t.csv", " ,1,1", "line 3: field 'client': expected text, got ' '"),
        ("t.jsonl", "[1]", r"t\.jsonl: record 1: expected a JSON object, got 1"),
        ("t.jsonl", "[" * 100_000, r"t\.jsonl: expected JSON, got"),
        ("t.jsonl", '{"client": true}', "line 1: field 'client': expected the name of a client"),
        ("t.jsonl", '{"client": 1, "uplink": true}', "line 1: uplink: expected a number, got True"),
    ],
)
def test_a_malformed_table_is_refused_naming_the_line(tmp_path, name, line, message):
    head = ("client,uplink,downlink,latency,step", "b,1,1,0,0") if name == "t.csv" else ()
    with pytest.raises(ValueError, match=message):
        links(table(tmp_path / name, *head, line))


def test_a_table_that_lacks_a_client_is_refused_naming_it(tmp_path, run):
    path = table(tmp_path / "t.csv", "client,uplink,downlink", "client 0,1,1")
    with pytest.raises(ValueError, match="a link for each of 7 clients, got none for 6, such as"):
        run(network=links(path))


@pytest.mark.slow
def test_a_deadline_counts_the_first_answers_and_discards_the_others(tmp_path, run, corpus):
    network = speeds(tmp_path, corpus)
    given = {"network": network, "rounds": 1, "clients": 7}
    ((three, _),) = run(deadline=deadline(first=3), **given)
    assert three.plan.late.tolist() == [False] * 3 + [True] * 4
    assert three.server_info.accepted == 3
    assert [e.client for e in three.messages if e.direction == "up"] == list(range(7))
    assert three.seconds == 3 * 3  # the third client's three steps of three seconds
    ((some, _),) = run(deadline=deadline(seconds=7), **given)
    assert some.plan.late.tolist() == [False] * 2 + [True] * 5
    assert some.seconds == 7
    ((parts, _),) = run(deadline=deadline(first=3), axis=PARTS, **given)
    assert parts.plan.late.tolist() == three.plan.late.tolist()
    for one, other in zip(*map(jax.tree.leaves, (three.state, parts.state)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert parts.server_info.accepted == 3


@pytest.mark.slow
def test_lateness_is_decided_by_the_length_of_all_parameters(run, size):
    takes = 1.0 + 8 * size / 1e5 + 8 * size / 1e4 + 3 * 2.0
    for seconds, none in ((takes * 0.999, True), (takes * 1.001, False)):
        ((r, _),) = run(network=SLOW, deadline=deadline(seconds=seconds), rounds=1)
        assert r.plan.late.tolist() == [none] * 4
        assert r.server_info.accepted == (0 if none else 4)


ENTRIES, ROUNDS = 8000, 8
UP, STEP = 8000.0 * np.arange(1, 6), 1.2 * np.arange(5)
"""Bits per second and seconds per step of five clients. All parameters, 32,012 bytes, take 11.2 to
32 seconds; the last two clients would be first with them, and are the last with short messages."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Runs of a quadratic on those links."""
    names = [f"client {i}" for i in range(5)]
    optima = np.random.default_rng(0).normal(size=(5, 1, ENTRIES)).astype("f4")
    corpus = from_arrays(dict(zip(names, optima, strict=True)))
    rows = [f"{n},{u},1e9,{s}" for n, u, s in zip(names, UP, STEP, strict=True)]
    network = links(
        table(tmp_path_factory.mktemp("links") / "l.csv", "client,uplink,downlink,step", *rows)
    )
    loss = masked_mean(lambda w, frozen, optimum: 0.5 * ((w - optimum) ** 2).sum(-1))
    like, compiled = jnp.zeros(ENTRIES), CompiledRounds()

    @functools.cache
    def algorithm(text):
        return fed_avg(loss, like, client_optimizer=optax.sgd(0.3), uplink=codec(text))

    def rounds(text, axis=ALL, **conditions):
        options = {"rounds": ROUNDS, "clients": 5, "seed": 0, "client_axis": axis}
        options |= {"conditions": Conditions(network=network, **conditions), "compiled": compiled}
        batching = Batching(batch=1, steps=1)
        return list(simulate(algorithm(text), like, (), corpus, batching, **options))

    return rounds


def arrived(round_):
    """Seconds until each answer has come, from the bytes that were made."""
    bytes_of = {(e.client, e.direction): e.payload_bytes + 12 for e in round_.messages}
    down, up = ([bytes_of[client, way] for client in range(5)] for way in ("down", "up"))
    return 8 * np.array(down) / 1e9 + STEP + 8 * np.array(up) / UP


@pytest.mark.slow
@pytest.mark.parametrize("text", ["top_k(fraction=0.1)", "entropy_coded(rate=1)"])
def test_messages_whose_length_depends_on_values_arrive_by_their_real_bytes(text, measured):
    found = measured(text, deadline=deadline(seconds=6))
    assert sum(int(r.server_info.accepted) for r in found) == 5 * ROUNDS
    plain = measured(text)
    for one, other in zip(found, plain, strict=True):
        assert one.messages == other.messages
        assert one.seconds == pytest.approx(other.seconds)
        np.testing.assert_allclose(one.state.params, other.state.params, atol=1e-5)
    first = measured(text, deadline=deadline(first=2))
    for r in first:
        assert r.plan.counted.nonzero()[0].tolist() == sorted(np.argsort(arrived(r))[:2])
        assert r.server_info.accepted == 2
    lasted = np.diff([0.0, *(r.seconds for r in first)])
    np.testing.assert_allclose(lasted, [np.sort(arrived(r))[1] for r in first])


SIDE, RANKS = 50, (1, 4)
"""Of a kernel SIDE x SIDE, a client of rank r sends r * 2 * SIDE values, and their number."""


def ranked_run(method, network, **conditions):
    """Rounds of five clients that each draw one of two ranks, and fit a matrix of their own."""
    names = [f"client {i}" for i in range(5)]
    random = np.random.default_rng(0)
    targets = random.normal(size=(5, 1, SIDE, SIDE)).astype("f4")
    start = {"a": random.normal(size=(SIDE, 4)).astype("f4"), "b": np.zeros((4, SIDE), "f4")}
    params = {"adapter": jax.tree.map(jnp.asarray, start)}
    frozen = {"kernel": jnp.zeros((SIDE, SIDE))}

    def error(params, frozen, target):
        change = params["adapter"]["a"] @ params["adapter"]["b"]
        return 0.5 * ((frozen["kernel"] + change - target) ** 2).mean((-1, -2))

    algorithm = method(masked_mean(error), params, client_optimizer=optax.sgd(0.1), ranks=RANKS)
    corpus = from_arrays(dict(zip(names, targets, strict=True)))
    options = {"rounds": 4, "clients": 5, "seed": 0}
    options["conditions"] = Conditions(network=network, **conditions)
    batching = Batching(batch=1, steps=1)
    return list(simulate(algorithm, params, frozen, corpus, batching, **options))


@pytest.mark.slow
@pytest.mark.parametrize("method", [hetlora, flexlora])
def test_messages_of_a_clients_rank_arrive_by_the_bytes_of_that_rank(tmp_path, method):
    """At 800 bits per second, rank 1 takes 4.16 s and rank 4, as long as all factors, 16.16 s."""
    rows = [f"client {i},800,1e12,{0.1 * (5 - i)}" for i in range(5)]
    network = links(table(tmp_path / "l.csv", "client,uplink,downlink,step", *rows))
    ends = {"in time": {"seconds": 8.0}, "two": {"first": 2}, "open": {}}
    for name, end in ends.items():
        before = 0.0
        for r in ranked_run(method, network, **({"deadline": deadline(**end)} if end else {})):
            up = np.array([e.payload_bytes for e in r.messages if e.direction == "up"])
            assert set(up) == {4 + 4 * rank * 2 * SIDE for rank in RANKS}
            arrival = 0.1 * (5 - np.arange(5)) + 8 * (up + 12) / 800
            lasted, before = r.seconds - before, r.seconds
            if name == "in time":
                counted, seconds = arrival <= 8, 8.0
            elif name == "two":
                counted = arrival <= np.sort(arrival)[1]
                seconds = np.sort(arrival)[1]
            else:
                assert r.server_info.accepted == 5
                assert lasted == pytest.approx(arrival.max())
                continue
            assert r.plan.counted.tolist() == counted.tolist()
            assert 0 < r.server_info.accepted == counted.sum() < 5
            assert lasted == pytest.approx(seconds)


@pytest.mark.slow
@pytest.mark.parametrize("axis", [scan(), chunked(2), sharded(inner=chunked(3))], ids=range(3))
def test_every_client_axis_counts_the_same_messages(axis, measured):
    given = {"text": "top_k(fraction=0.1)", "deadline": deadline(first=3)}
    for one, other in zip(measured(axis=axis, **given), measured(**given), strict=True):
        assert one.messages == other.messages
        assert one.plan.late.tolist() == other.plan.late.tolist()
        assert one.server_info.accepted == 3
        np.testing.assert_allclose(one.state.params, other.state.params, atol=1e-5)


@pytest.mark.slow
def test_a_downlink_whose_length_depends_on_values_takes_the_time_of_its_bytes(task, corpus, size):
    """Its message is an eighth of the parameters; a limit between the two counts every client."""
    coded = fed_avg(
        task.loss,
        task.params,
        client_optimizer=optax.sgd(0.5),
        downlink=codec("entropy_coded(rate=4)"),
    )
    network = link(uplink=1e9, downlink=1e4)
    ends = deadline(seconds=8 * size / 1e4 / 2)
    options = {"rounds": 1, "clients": 4, "seed": 0, "conditions": Conditions(None, network, ends)}
    (r,) = simulate(coded, task.params, task.frozen, corpus, BATCHING, **options)
    assert r.server_info.accepted == 4
    down = r.messages[0].payload_bytes + 12
    assert r.seconds == pytest.approx(8 * down / 1e4 + 8 * size / 1e9)


@pytest.mark.slow
def test_a_late_client_keeps_its_old_residual(tmp_path, run, corpus):
    text = "error_feedback(top_k(fraction=0.1))"
    given = {"network": speeds(tmp_path, corpus), "rounds": 1, "clients": 7, "text": text}
    ((_, cut),) = run(deadline=deadline(first=1), **given)
    ((_, whole),) = run(**given)
    assert cut.store.clients.tolist() == list(range(7))
    for one, other in zip(
        *map(jax.tree.leaves, (cut.store.states, whole.store.states)), strict=True
    ):
        np.testing.assert_allclose(one[0], other[0], atol=1e-6)
        assert not one[1:].any()


@pytest.mark.slow
def test_ties_are_not_broken_by_client_number(run):
    found = run(network=SLOW, deadline=deadline(first=2), clients=7, rounds=6)
    counted = {int(client) for r, _ in found for client in r.clients[r.plan.counted]}
    assert all(r.plan.counted.sum() == 2 for r, _ in found)
    assert len(counted) > 4


@pytest.mark.parametrize(
    ("ends", "counted", "seconds"),
    [
        (Deadline(), [1, 1, 1], 9.0),
        (Deadline(), [1, 1, 0], 4.0),  # the server knows which clients are gone
        (Deadline(), [0, 0, 0], 9.0),
        (Deadline(first=2), [1, 1, 0], 4.0),
        (Deadline(first=2), [1, 0, 0], 1.0),
        (Deadline(seconds=5.0), [1, 1, 0], 5.0),  # the third may still come
        (Deadline(seconds=50.0), [1, 1, 1], 9.0),
        (Deadline(seconds=5.0), [0, 0, 0], 5.0),
        (Deadline(first=2, seconds=5.0), [1, 1, 0], 4.0),
        (Deadline(first=2, seconds=5.0), [1, 0, 0], 5.0),
    ],
)
def test_a_round_lasts_until_its_last_counted_answer_or_its_limit(ends, counted, seconds):
    assert duration(ends, np.array([1.0, 4.0, 9.0]), np.array(counted, bool)) == seconds


def test_a_silent_client_takes_no_place_among_the_first():
    arrived, answers = np.array([1.0, 2.0, 3.0, 3.0]), np.array([False, True, True, True])
    found = late(Deadline(first=2), arrived, answers, np.array([0.0, 0.0, 0.9, 0.1]))
    assert found.tolist() == [False, False, True, False]


def test_a_trace_says_which_clients_are_available_and_when_enough_are(tmp_path):
    path = table(tmp_path / "t.csv", "client,start,end", "a,0,10", "b,5,8", "a,12,20", "x,0,99")
    windows = trace(path).windows(["a", "b", "c"])
    assert available(windows, 0.0, 3).tolist() == [True, False, False]
    assert available(windows, 5.0, 3).tolist() == [True, True, False]
    assert available(windows, 8.0, 3).tolist() == [True, False, False]
    assert available(windows, 11.0, 3).tolist() == [False, False, False]
    begins = [wait_for(windows, now, 1, 3)[0] for now in (0.0, 9.5, 10.0, 13.0)]
    assert begins == [0.0, 9.5, 12.0, 13.0]
    assert wait_for(windows, 1.0, 2, 3)[0] == 5.0
    assert wait_for(windows, 1.0, 2, 3)[1].tolist() == [True, True, False]
    with pytest.raises(
        ValueError, match=r"2 clients to be available at once .* from 8 s on, got 1"
    ):
        wait_for(windows, 8.0, 2, 3)


def test_a_periodic_trace_repeats(tmp_path):
    path = table(tmp_path / "t.csv", "client,start,end", "a,0,10", "b,5,8")
    windows = trace(path, period=100).windows(["a", "b"])
    assert available(windows, 306.0, 2).tolist() == [True, True]
    assert wait_for(windows, 308.0, 2, 2)[0] == 405.0
    assert wait_for(windows, 350.0, 1, 2)[0] == 400.0
    with pytest.raises(ValueError, match=r"expected 3 clients .* got 2 at most"):
        wait_for(windows, 0.0, 3, 2)


def test_diurnal_clients_are_available_for_their_share():
    names = [str(i) for i in range(50)]
    windows = diurnal(share=0.3, period=100.0).windows(names)
    share = np.mean([available(windows, t / 10, 50) for t in range(1000)], axis=0)
    np.testing.assert_allclose(share, 0.3, atol=2e-3)
    some = diurnal(share=0.3, period=100.0).windows(names[:9])
    np.testing.assert_array_equal(available(windows, 42.0, 50)[:9], available(some, 42.0, 9))


def test_enough_clients_are_available_after_waiting_however_late_it_is():
    windows = diurnal(share=0.3, period=0.7).windows([str(i) for i in range(9)])
    now = 0.1
    for _ in range(200):
        begins, free = wait_for(windows, now, 4, 9)
        assert free.sum() >= 4
        assert begins >= now
        now = begins + 1.3


@pytest.mark.slow
def test_a_round_waits_for_available_clients_and_draws_from_them(tmp_path, run, corpus):
    network = speeds(tmp_path, corpus)
    path = table(
        tmp_path / "t.csv",
        "client,start,end",
        *(f"client {i},0,10" for i in (0, 1, 2)),
        *(f"client {i},100,1e9" for i in (2, 4, 6)),
    )
    given = {"network": network, "availability": trace(path), "clients": 2, "rounds": 4}
    found = run(**given)
    first = found[0][0]
    assert set(first.clients.tolist()) <= {0, 1, 2}
    seconds = 3.0 * (first.clients.max() + 1)
    assert first.seconds == seconds
    late = [r for r, _ in found if r.seconds > 100]
    assert late
    assert all(set(r.clients.tolist()) <= {2, 4, 6} for r in late)
    assert late[0].seconds == 100 + 3.0 * (late[0].clients.max() + 1)
    rest = run(**given, start=found[1][1])
    for (one, _), (other, _) in zip(found[2:], rest, strict=True):
        assert one.clients.tolist() == other.clients.tolist()
        assert one.seconds == other.seconds
        for a, b in zip(*map(jax.tree.leaves, (one.state, other.state)), strict=True):
            np.testing.assert_array_equal(a, b)
    alone = run(**given, axis=PARTS)
    assert [r.clients.tolist() for r, _ in alone] == [r.clients.tolist() for r, _ in found]


@pytest.mark.slow
def test_a_round_does_not_wait_for_clients_that_drop_out(tmp_path, run, corpus):
    network = speeds(tmp_path, corpus)
    given = {"network": network, "clients": 7, "rounds": 1}
    ((gone, _),) = run(faults=faults(dropout=1.0), **given)
    assert (gone.server_info.accepted, gone.seconds) == (0, pytest.approx(0))
    ((silent, _),) = run(faults=faults(silence=1.0), **given)
    assert silent.seconds == 21
    ((limited, _),) = run(faults=faults(dropout=1.0), deadline=deadline(seconds=5), **given)
    assert limited.seconds == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: link(uplink=0, downlink=1),
            "link: uplink: expected a number of bits per second above 0, got 0",
        ),
        (
            lambda: link(uplink=1, downlink=1, step=-1),
            "link: step: expected a finite number of seconds of at least 0, got -1",
        ),
        (deadline, "deadline: expected first, seconds or both, got neither"),
        (lambda: deadline(first=0), "deadline: first: expected an integer at least 1, got 0"),
        (lambda: deadline(seconds=0), "deadline: seconds: expected a number above 0, got 0"),
        (
            lambda: diurnal(share=0),
            "diurnal: share: expected a number above 0 and at most 1, got 0",
        ),
        (lambda: diurnal(share=1, period=0), "diurnal: period: expected a number above 0, got 0"),
        (
            lambda: diurnal(share=1, period=float("inf")),
            "diurnal: period: expected a finite number above 0, got inf",
        ),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,3,3"], "line 2: expected a client and 0 <= start < end <= 50, got {'client': 'a', 's"),
        (["a,0,51"], "line 2: expected a client and 0 <= start < end <= 50"),
        (["a,nan,4"], "line 2: expected a client and"),
        (["a,0"], "line 2: expected a client and"),
        (["a,0,9", "a,8,12"], "client 'a': expected windows that do not overlap"),
    ],
)
def test_a_malformed_trace_is_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        trace(table(tmp_path / "t.csv", "client,start,end", *lines), period=50)
    with pytest.raises(ValueError, match="line 2: field 'client': expected this field, got only"):
        trace(table(tmp_path / "t.csv", "who,start,end", *lines))


@pytest.mark.parametrize("read", [links, trace])
@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_number_and_the_same_text_are_not_one_client_of_a_table(tmp_path, read, name):
    """As in data; the windows of two clients were one client's before."""
    clients = (1, "1") if read is links else (1, 1.0, "1")
    rows = [
        {"client": client, "uplink": 1, "downlink": 2, "start": at, "end": at + 1}
        for at, client in enumerate(clients)
    ]
    text = json.dumps(rows) if name == "t.json" else "\n".join(map(json.dumps, rows))
    with pytest.raises(ValueError, match=rf"{len(rows)}: field 'client': expected one client by"):
        read(table(tmp_path / name, text))
    same = [{**row, "client": 1} for row in rows[:-1]]
    assert read(table(tmp_path / "t.jsonl", *map(json.dumps, same)))


@pytest.mark.parametrize("name", ["deadline", "availability"])
def test_a_condition_on_time_needs_a_network(run, name):
    condition = {"deadline": deadline(first=1), "availability": diurnal(share=0.5)}[name]
    with pytest.raises(
        ValueError, match=f"simulate: conditions.network: expected a network, as {name} is in"
    ):
        run(**{name: condition})
