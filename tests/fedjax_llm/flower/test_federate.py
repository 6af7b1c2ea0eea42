"""The loop over an in-memory grid: equal to the simulation, and robust to bad clients."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from fedjax_compression import codec, wire
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedjax_llm import algorithms
from fedjax_llm.aggregators import dp_fed_avg
from fedjax_llm.ledger import messages, total_bytes
from fedjax_llm.simulation import Conditions, Fate, Faults, chunked, simulate

from ...helpers.flower_nodes import bits, nodes, over_flower
from ...helpers.flower_task import (
    ALGORITHMS,
    BATCHING,
    LIKE,
    NAMES,
    PARAMS,
    SGD,
    batches,
    corpus,
    loss,
)
from ...helpers.in_memory_grid import InMemoryGrid


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_numbers_and_bytes_are_those_of_the_simulation(name, tmp_path):
    """To rounding, as tests compile with options of their own; `make flower` compares the bits."""
    algorithm = ALGORITHMS[name]()
    grid = InMemoryGrid(nodes(algorithm, tmp_path))
    flower = over_flower(algorithm, grid)
    simulated = simulate(
        algorithm,
        *(PARAMS, (), corpus(), BATCHING),
        rounds=3,
        clients=3,
        seed=11,
        client_axis=chunked(1),
    )
    for ours, theirs in zip(flower, simulated, strict=True):
        assert ours.clients == tuple(NAMES[c] for c in theirs.clients)
        assert ours.counted == ours.clients
        assert not ours.failed
        for x, y in zip(*map(jax.tree.leaves, (ours.state, theirs.state)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6)
        assert ours.messages == theirs.messages
        assert ours.server_info.accepted == 3


STATEFUL = "error_feedback(stochastic_quantize(bits=2))"


def stateful():
    return algorithms.fed_avg(loss, LIKE, client_optimizer=SGD, uplink=codec(STATEFUL))


def uplink_of(reply):
    return reply.content.array_records["uplink"]["message"]


def with_uplink(reply, **changes):
    """The reply with another array, named as ours."""
    array = uplink_of(reply)
    fields = {name: getattr(array, name) for name in ("dtype", "shape", "stype", "data")}
    reply.content["uplink"] = ArrayRecord({"message": Array(**{**fields, **changes})})
    return [reply]


def with_data(reply, data):
    return with_uplink(reply, data=data, shape=(len(data),))


def with_values(reply, **changes):
    reply.content["round"] = ConfigRecord({**reply.content.config_records["round"], **changes})
    return [reply]


def flipped(data):
    return data[:20] + bytes([data[20] ^ 1]) + data[21:]


def of_nan(reply):
    """A message of the right structure whose numbers are NaN."""
    algorithm = stateful()
    _, like = messages(algorithm, PARAMS, batches())
    payload = jax.tree.map(
        lambda leaf: np.full(leaf.shape, np.nan if leaf.dtype == np.float32 else 0, leaf.dtype),
        like,
    )
    return with_data(reply, wire.dumps(payload))


def without(reply, name):
    del reply.content[name]
    return [reply]


def with_numpy_array(reply):
    reply.content["uplink"] = ArrayRecord({"message": Array(np.zeros(3, np.float32))})
    return [reply]


def with_two_arrays(reply):
    array = uplink_of(reply)
    reply.content["uplink"] = ArrayRecord({"message": array, "other": array})
    return [reply]


BAD = {
    "truncated": (lambda r: with_data(r, uplink_of(r).data[:-1]), "bytes, got"),
    "empty": (lambda r: with_data(r, b""), "bytes, got 0"),
    "longer": (lambda r: with_data(r, uplink_of(r).data + b"\0"), "bytes, got"),
    "changed": (lambda r: with_data(r, flipped(uplink_of(r).data)), "checksum"),
    "other codec": (
        lambda r: with_uplink(r, stype="fedjax-llm.00000000.v2"),
        "the same codec, model and version",
    ),
    "false shape": (lambda r: with_uplink(r, shape=(2**40,)), "dtype and shape"),
    "false dtype": (lambda r: with_uplink(r, dtype="float32"), "dtype and shape"),
    "NumPy's array": (with_numpy_array, "stype"),
    "two arrays": (with_two_arrays, "arrays: expected ['message']"),
    "no update": (lambda r: without(r, "uplink"), "uplink: expected a record of arrays"),
    "no values": (lambda r: without(r, "round"), "round: expected a record of values"),
    "another round": (lambda r: with_values(r, round=1), "round: round: expected"),
    "another client": (lambda r: with_values(r, client="ann"), "round: client: expected 'bob'"),
    "too many targets": (lambda r: with_values(r, targets=2**40), "from 0 to 1000"),
    "negative targets": (lambda r: with_values(r, targets=-1), "from 0 to 1000"),
    "targets of NaN": (lambda r: with_values(r, targets=float("nan")), "targets: expected int"),
    "another value": (lambda r: with_values(r, more=1), "round: names: expected"),
    "NaN": (of_nan, "expected finite numbers, got NaN or an infinity"),
    "twice": (lambda r: [r, r], "expected one in time, got 2"),
    "not at all": (lambda r: [], "expected one in time, got none"),
    "an error": (
        lambda r: [Message(Error(2, "no memory\nleft"), metadata=r.metadata)],
        r"error 2: 'no memory\nleft'",
    ),
}


def test_a_bad_reply_fails_its_client_by_name_and_the_round_goes_on(tmp_path):
    """One bad reply of bob's in each round: as in the simulation when bob does not answer."""
    algorithm, bad = stateful(), list(BAD.values())
    silent = {2 + i for i in range(len(bad))}  # in round 1 and in the last one all is well
    rounds = len(bad) + 2

    def tamper(reply):
        if reply.metadata.message_type != "train":
            return [reply]
        values = reply.content.config_records["round"]
        if values["client"] != "bob" or values["round"] not in silent:
            return [reply]
        return bad[values["round"] - 2][0](reply)

    grid = InMemoryGrid(nodes(algorithm, tmp_path), tamper)
    done = over_flower(algorithm, grid, rounds=rounds, clients=4, timeout=0.3, most_targets=1000)
    for r, (name, (_, reason)) in zip(done[1:], BAD.items(), strict=False):
        assert list(r.failed) == ["bob"], name
        assert reason in r.failed["bob"], r.failed
        assert r.counted == ("ann", "cyn", "dan")
    assert not done[0].failed
    assert not done[-1].failed
    assert done[-1].counted == NAMES

    def fate(key, number, client):
        out = (client == 1) & (number > 1) & (number < rounds)
        return Fate(jnp.zeros((), bool), out, jnp.zeros((), bool), jnp.float32(1))

    simulated = simulate(
        algorithm,
        *(PARAMS, (), corpus(), BATCHING),
        rounds=rounds,
        clients=4,
        seed=11,
        client_axis=chunked(1),
        conditions=Conditions(Faults(fate)),
    )
    for ours, theirs in zip(done, simulated, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (ours.state, theirs.state)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_a_missing_or_doubled_node_fails_its_client_by_name(tmp_path):
    algorithm = stateful()
    here = nodes(algorithm, tmp_path)
    app = here[90][0]
    del here[89]  # bob
    here[7] = app, {"client": "cyn"}  # besides node 88
    here[6] = app, {"client": "eve"}
    (done,) = over_flower(algorithm, InMemoryGrid(here), rounds=1, clients=4, join_seconds=0)
    assert done.counted == ("ann", "dan")
    assert "expected one node of this client, got 0" in done.failed["bob"]
    assert "Node 6: reply: expected an update, got error 2" in done.failed["bob"]
    assert "a client of the data, such as ann, bob, cyn, dan" in done.failed["bob"]
    assert "expected one node of this client, got 2" in done.failed["cyn"]


def test_clients_with_another_codec_fail_by_name(tmp_path):
    other = algorithms.fed_avg(loss, LIKE, client_optimizer=SGD, uplink=codec("sign()"))
    grid = InMemoryGrid(nodes(other, tmp_path))
    (done,) = over_flower(stateful(), grid, rounds=1, clients=2)
    assert done.counted == ()
    assert sorted(done.failed) == sorted(done.clients)
    for reason in done.failed.values():
        assert "uplink: stype: expected" in reason
        assert "server and clients need the same codec, model and version" in reason
    down = algorithms.fed_avg(loss, LIKE, client_optimizer=SGD, downlink=codec("sign()"))
    (done,) = over_flower(down, InMemoryGrid(nodes(stateful(), tmp_path)), rounds=1, clients=2)
    assert all("downlink: stype: expected" in reason for reason in done.failed.values())
    assert len(done.failed) == 2


def test_a_node_that_could_not_join_is_asked_again(tmp_path):
    algorithm, asked = stateful(), []

    def tamper(reply):
        if reply.metadata.message_type == "query.join" and reply.metadata.src_node_id == 89:
            asked.append(reply)
            if len(asked) == 1:
                return [Message(Error(5, "unavailable"), metadata=reply.metadata)]
        return [reply]

    grid = InMemoryGrid(nodes(algorithm, tmp_path), tamper)
    done = over_flower(algorithm, grid, rounds=1, clients=4, join_seconds=5)
    assert len(asked) == 2
    assert done[0].counted == NAMES


def test_a_round_without_any_client_changes_nothing(tmp_path):
    algorithm = stateful()
    (done,) = over_flower(algorithm, InMemoryGrid({}), rounds=1, clients=2, join_seconds=0)
    assert done.counted == ()
    assert done.messages == []
    assert bits(done.state.params) == bits(PARAMS)


def test_a_run_resumes_to_the_same_bits(tmp_path):
    """The server stops after round 2, and again in the middle of round 3."""
    algorithm = stateful()
    whole = over_flower(algorithm, InMemoryGrid(nodes(algorithm, tmp_path / "a")), rounds=4)
    grid = InMemoryGrid(nodes(algorithm, tmp_path / "b"))
    first = over_flower(algorithm, grid, rounds=2)
    over_flower(algorithm, grid, rounds=3, start=first[-1].standing)  # lost with its checkpoint
    rest = over_flower(algorithm, grid, rounds=4, start=first[-1].standing)
    assert [r.round for r in rest] == [3, 4]
    assert bits(rest[-1].state) == bits(whole[-1].state)
    assert rest[-1].messages == whole[-1].messages


def test_a_client_whose_state_is_lost_or_damaged_fails_by_name(tmp_path):
    algorithm = stateful()
    grid = InMemoryGrid(nodes(algorithm, tmp_path))
    first = over_flower(algorithm, grid, rounds=1, clients=4)
    file = tmp_path / "run-test" / "client-bob" / "state"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "run-test" / "client-cyn" / "state").unlink()
    (done,) = over_flower(algorithm, grid, rounds=2, clients=4, start=first[-1].standing)
    assert done.counted == ("ann", "dan")
    assert "expected the digest" in done.failed["bob"]
    assert "expected the state after round 1" in done.failed["cyn"]


def test_an_algorithm_that_needs_every_client_stops_where_one_fails(tmp_path):
    algorithm = stateful()._replace(every_round=True)
    here = nodes(algorithm, tmp_path)
    with pytest.raises(ValueError, match="federate: clients: expected 4, as the algorithm needs"):
        over_flower(algorithm, InMemoryGrid(here), rounds=1, clients=3)
    del here[89]
    with pytest.raises(RuntimeError, match=r"federate: round 1: expected every client.*'bob'"):
        over_flower(algorithm, InMemoryGrid(here), rounds=1, clients=4, join_seconds=0)


def test_a_downlink_with_memory_stops_where_a_client_may_have_missed_the_model(tmp_path):
    down = codec("ef21(top_k(fraction=0.5))")
    algorithm = algorithms.fed_avg(loss, LIKE, client_optimizer=SGD, downlink=down)
    here = nodes(algorithm, tmp_path)
    with pytest.raises(ValueError, match="federate: clients: expected 4, as the algorithm needs"):
        over_flower(algorithm, InMemoryGrid(here), rounds=1, clients=3)

    def damaged(reply):  # cyn answers, so she has the model
        if reply.metadata.message_type == "train" and reply.metadata.src_node_id == 88:
            reply.content.array_records.clear()
        return [reply]

    (first,) = over_flower(algorithm, InMemoryGrid(here, damaged), rounds=1, clients=4)
    assert first.counted == ("ann", "bob", "dan")
    lost = here.pop(89)
    grid, start = InMemoryGrid(here), first.standing
    with pytest.raises(RuntimeError, match=r"federate: round 2: expected every client.*'bob'"):
        over_flower(algorithm, grid, rounds=2, clients=4, join_seconds=0, start=start)
    here[89] = lost
    (again,) = over_flower(algorithm, InMemoryGrid(here), rounds=2, clients=4, start=start)
    assert again.counted == NAMES


def test_uplinks_are_the_bytes_sent_and_the_envelope_is_apart(tmp_path):
    algorithm = stateful()
    replies = []

    def keep(reply):
        replies.append(reply)
        return [reply]

    grid = InMemoryGrid(nodes(algorithm, tmp_path), keep)
    (done,) = over_flower(algorithm, grid, rounds=1, clients=4)
    sent = [r for r in replies if r.metadata.message_type == "train"]
    assert total_bytes(done.messages, "up") == sum(len(uplink_of(r).data) for r in sent)
    asked = [m for m in grid.sent if m.metadata.message_type == "train"]
    down = [m.content.array_records["downlink"]["message"].data for m in asked]
    assert total_bytes(done.messages, "down") == sum(map(len, down))
    for group, measured, inner in (
        (sent, done.envelope[0], total_bytes(done.messages, "up")),
        (asked, done.envelope[1], total_bytes(done.messages, "down")),
    ):
        whole = sum(len(o.deflate()) for m in group for o in get_all_nested_objects(m).values())
        assert measured == whole - inner
        assert 500 < measured / len(group) < 3000


def test_a_client_is_sent_its_own_key_alone(tmp_path):
    algorithm = stateful()
    grid = InMemoryGrid(nodes(algorithm, tmp_path))
    over_flower(algorithm, grid, rounds=1, clients=4)
    asked = [m for m in grid.sent if m.metadata.message_type == "train"]
    keys = {}
    for each in asked:
        values = dict(each.content.config_records["round"])
        assert set(values) == {"version", "run", "origin", "client", "round", "counted", "key"}
        keys[values["client"]] = values["key"]
    for number, name in enumerate(NAMES):
        key = jr.fold_in(jr.fold_in(jr.key(11), 1), number)
        assert keys[name] == np.asarray(jr.key_data(key)).astype("<u4").tobytes()


def test_an_algorithm_with_noise_is_refused():
    private = algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=SGD,
        aggregate=dp_fed_avg(clip=1.0, noise_multiplier=1.0),
    )
    with pytest.raises(ValueError, match="federate: algorithm: expected one without noise"):
        over_flower(private, InMemoryGrid({}), rounds=1, join_seconds=0)


def test_wrong_arguments_are_refused_by_name(tmp_path):
    algorithm = stateful()
    for change, expected in (
        ({"timeout": 0}, "federate: timeout: expected a number of seconds above 0"),
        ({"join_seconds": -1}, "federate: join_seconds"),
        ({"clients": 9}, "federate: clients: expected an integer from 1 to 4"),
        ({"most_targets": 2**40}, "federate: most_targets"),
    ):
        with pytest.raises(ValueError, match=expected):
            over_flower(algorithm, InMemoryGrid({}), **{"rounds": 1, "join_seconds": 0, **change})
