"""Secure sums over an in-memory grid: the simulation's numbers, and no update at the server."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fedjax_compression import codec
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedjax_llm import algorithms
from fedjax_llm.aggregators import secure_mean
from fedjax_llm.flower import SecureSums
from fedjax_llm.ledger import total_bytes
from fedjax_llm.secure_aggregation import messages as of_protocol
from fedjax_llm.secure_aggregation.packing import pack
from fedjax_llm.simulation import Conditions, Fate, Faults, chunked, simulate

from ...helpers.flower_nodes import bits, nodes, over_flower
from ...helpers.flower_task import BATCHING, LIKE, NAMES, PARAMS, SGD, corpus, loss
from ...helpers.in_memory_grid import InMemoryGrid

ALL = SecureSums(clients=4)
UPLINK = "error_feedback(fixed_point(clip=0.05, bits=8, clients=4))"
STEPS = ("train", "train.share", "train.mask", "train.unmask")


def method(uplink=UPLINK):
    return algorithms.fed_avg(
        loss, LIKE, client_optimizer=SGD, uplink=codec(uplink), aggregate=secure_mean()
    )


summed_over_flower = partial(over_flower, clients=4, secure=ALL)


def simulated(algorithm, *, rounds, clients=4, lost=()):
    """The simulation with the clients of some rounds lost: `(round, client)`."""

    def fate(key, number, client):
        out = jnp.zeros((), bool)
        for r, c in lost:
            out |= (number == r) & (client == c)
        return Fate(jnp.zeros((), bool), out, jnp.zeros((), bool), jnp.float32(1))

    return simulate(
        algorithm,
        *(PARAMS, (), corpus(), BATCHING),
        rounds=rounds,
        clients=clients,
        seed=11,
        client_axis=chunked(1),
        conditions=Conditions(Faults(fate)) if lost else Conditions(),
    )


def check_equal(done, reference):
    for ours, theirs in zip(done, reference, strict=True):
        for x, y in zip(*map(jax.tree.leaves, (ours.state, theirs.state)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def protocol_bytes(message):
    return message.content.array_records["secure_sum"]["message"].data


def test_the_parameters_are_those_of_the_simulation_and_the_bytes_those_of_the_protocol(tmp_path):
    """Cohorts of 3 of 4 clients, with residuals that last."""
    secure = SecureSums(clients=3)
    algorithm, replies = method(), []

    def keep(reply):
        replies.append(reply)
        return [reply]

    grid = InMemoryGrid(nodes(algorithm, tmp_path, secure), keep)
    done = summed_over_flower(algorithm, grid, rounds=3, clients=3, secure=secure)
    for each in done:
        assert not each.failed
        assert each.counted == each.clients
        assert int(each.server_info.accepted) == 3
        setup = secure.setup(bytes(16), algorithm.sums)
        near = 2
        up = [
            of_protocol.message_bytes(of_protocol.Advertised, setup),
            of_protocol.message_bytes(of_protocol.Shared, setup, near),
            of_protocol.message_bytes(of_protocol.Masked, setup),
            of_protocol.message_bytes(of_protocol.Revealed, setup, near),
        ]
        down = [
            12 + 4 * 54,
            of_protocol.message_bytes(of_protocol.Neighbors, setup, near),
            of_protocol.message_bytes(of_protocol.Delivered, setup, near),
            of_protocol.message_bytes(of_protocol.Survivors, setup, near),
        ]
        assert total_bytes(each.messages, "up") == 3 * sum(up)
        assert total_bytes(each.messages, "down") == 3 * sum(down)
    check_equal(done, simulated(algorithm, rounds=3, clients=3))
    answers = [r for r in replies if r.metadata.message_type != "query.join"]
    assert sorted({r.metadata.message_type for r in answers}) == sorted(STEPS)
    sent = sum(len(protocol_bytes(r)) for r in answers)
    assert sent == sum(total_bytes(each.messages, "up") for each in done)


def test_the_server_is_sent_no_update_and_no_weight(tmp_path):
    """Its messages hold the protocol's bytes alone; those of the integers are masked."""
    algorithm, replies = method("fixed_point(clip=0.05, bits=8, clients=4)"), []

    def keep(reply):
        replies.append(reply)
        return [reply]

    plain = {}
    own = algorithm.client_update

    def noted(key, frozen, downlink, client_state, batches):
        uplink, state, info = own(key, frozen, downlink, client_state, batches)
        jax.debug.callback(
            lambda key, sent: plain.setdefault(key.tobytes(), np.asarray(sent)),
            jax.random.key_data(key),
            algorithm.sums.integers(uplink),
        )
        return uplink, state, info

    grid = InMemoryGrid(nodes(algorithm._replace(client_update=noted), tmp_path, ALL), keep)
    (done,) = summed_over_flower(algorithm, grid, rounds=1)
    jax.effects_barrier()
    assert done.counted == NAMES
    assert len(plain) == 4
    width = ALL.setup(bytes(16), algorithm.sums).width
    unmasked = {
        pack((integers.astype(np.int64) & (2**width - 1)).astype(np.uint32), bits=width).tobytes()
        for integers in plain.values()
    }
    for reply in replies:
        kind = reply.metadata.message_type
        if kind == "query.join":
            assert set(reply.content.config_records["join"]) == {"client", "version"}
            continue
        assert set(reply.content) == {"secure_sum", "round"}
        assert set(reply.content.config_records["round"]) == {"client", "round"}
        if kind == "train.mask":
            assert protocol_bytes(reply)[32:] not in unmasked


@pytest.mark.parametrize("step", STEPS)
def test_a_client_that_drops_out_at_a_step_counts_as_the_protocol_has_it(step, tmp_path):
    """Bob is lost in round 2. After his integers came, he counts; before, as if he had failed."""
    algorithm = method()

    def tamper(reply):
        if reply.metadata.message_type == step and reply.metadata.src_node_id == 89:
            values = reply.content.config_records["round"]
            return [] if values["round"] == 2 else [reply]
        return [reply]

    grid = InMemoryGrid(nodes(algorithm, tmp_path, ALL), tamper)
    done = summed_over_flower(algorithm, grid, rounds=3, timeout=0.3)
    late = step == "train.unmask"
    check_equal(done, simulated(algorithm, rounds=3, lost=() if late else [(2, 1)]))
    assert done[1].counted == (NAMES if late else ("ann", "cyn", "dan"))
    words = {"train": "advertise", "train.share": "share", "train.mask": "mask"}
    expected = {} if late else {"bob": f"{words[step]}: reply: expected one in time, got none."}
    assert done[1].failed == expected
    assert done[2].counted == NAMES


def test_with_fewer_than_the_threshold_nobody_counts_and_the_next_round_goes_on(tmp_path):
    algorithm = method()

    def tamper(reply):
        if reply.metadata.message_type == "train.mask" and reply.metadata.src_node_id in (89, 88):
            values = reply.content.config_records["round"]
            return [] if values["round"] == 1 else [reply]
        return [reply]

    grid = InMemoryGrid(nodes(algorithm, tmp_path, ALL), tamper)
    done = summed_over_flower(algorithm, grid, rounds=2, timeout=0.3)
    assert done[0].counted == ()
    assert bits(done[0].state.params) == bits(PARAMS)
    assert "mask: reply: expected one in time" in done[0].failed["bob"]
    assert "nothing is revealed" in done[0].failed["ann"]
    unmask = [m for m in grid.sent if m.metadata.message_type == "train.unmask"]
    assert {m.content.config_records["round"]["round"] for m in unmask} == {2}
    assert done[1].counted == NAMES
    check_equal(done, simulated(algorithm, rounds=2, lost=[(1, c) for c in range(4)]))


def with_array(reply, **changes):
    array = reply.content.array_records["secure_sum"]["message"]
    fields = {name: getattr(array, name) for name in ("dtype", "shape", "stype", "data")}
    fields |= changes
    fields["shape"] = (len(fields["data"]),)
    reply.content["secure_sum"] = ArrayRecord({"message": Array(**fields)})
    return [reply]


def of_another(reply, others):
    return with_array(reply, data=others["ann"])


BAD = {
    "cut": (lambda r, _: with_array(r, data=protocol_bytes(r)[:-1]), "bytes, got"),
    "changed": (
        lambda r, _: with_array(r, data=protocol_bytes(r)[:-1] + b"\x05"),
        "checksum",
    ),
    "another's": (of_another, "expected a message of client 1, got one of 0"),
    "another type": (lambda r, _: with_array(r, stype="fedjax-llm.00000000.v2"), "stype"),
    "twice": (lambda r, _: [r, r], "expected one in time, got 2"),
    "another round": (
        lambda r, _: [
            r.content.__setitem__("round", ConfigRecord({"client": "bob", "round": 9})) or r
        ],
        "round: round: expected 1, got 9",
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "step",
    [pytest.param(s, marks=[] if s == "train.mask" else pytest.mark.slow) for s in STEPS[:3]],
)
def test_a_message_that_the_protocol_does_not_have_drops_its_client_by_name(step, bad, tmp_path):
    algorithm = method()
    seen = {}

    def tamper(reply):
        if reply.metadata.message_type != step:
            return [reply]
        name = reply.content.config_records["round"]["client"]
        seen[name] = protocol_bytes(reply)
        return BAD[bad][0](reply, seen) if name == "bob" else [reply]

    grid = InMemoryGrid(nodes(algorithm, tmp_path, ALL), tamper)
    (done,) = summed_over_flower(algorithm, grid, rounds=1, timeout=0.3)
    assert done.counted == ("ann", "cyn", "dan")
    assert BAD[bad][1] in done.failed["bob"]


def test_a_process_that_ends_between_two_steps_drops_its_client_and_says_how_to_serve_it(tmp_path):
    algorithm = method()
    here = nodes(algorithm, tmp_path, ALL)
    fresh = nodes(algorithm, tmp_path, ALL)

    def tamper(reply):
        if reply.metadata.message_type == "train" and reply.metadata.src_node_id == 89:
            here[89] = fresh[89]
        return [reply]

    (done,) = summed_over_flower(algorithm, InMemoryGrid(here, tamper), rounds=1)
    assert done.counted == ("ann", "cyn", "dan")
    assert "expected the process that took the step before" in done.failed["bob"]
    assert "--isolation process" in done.failed["bob"]


def test_a_diverged_update_is_not_summed(tmp_path):
    algorithm = method()
    own = algorithm.client_update

    nan = {"w": jnp.full((8, 6), jnp.nan), "b": jnp.zeros(6)}
    coder = codec(UPLINK)

    def failing(key, frozen, downlink, client_state, batches):
        _, state, info = own(key, frozen, downlink, client_state, batches)
        return coder.encode(key, nan, client_state.uplink)[0], state, info

    here = nodes(algorithm, tmp_path, ALL)
    here[89] = nodes(algorithm._replace(client_update=failing), tmp_path, ALL)[89]
    (done,) = summed_over_flower(algorithm, InMemoryGrid(here), rounds=1)
    assert done.counted == ("ann", "cyn", "dan")
    assert "expected finite numbers" in done.failed["bob"]


def test_what_does_not_fit_is_refused_by_name():
    plain = algorithms.fed_avg(loss, LIKE, client_optimizer=SGD)
    for algorithm, options, expected in (
        (method(), {"secure": None}, r"secure: expected SecureSums\(clients=...\)"),
        (plain, {}, "secure: expected None with an algorithm whose server needs single updates"),
        (method(), {"secure": SecureSums(9)}, "secure.clients: expected at most 4"),
        (method(), {"secure": SecureSums(2)}, "Setup: clients: expected an integer at least 3"),
        (method(), {"secure": SecureSums(4, threshold=4)}, "Setup: threshold"),
        (method(), {"secure": SecureSums(3)}, "secure.clients: expected 4, the clients of a coh"),
    ):
        with pytest.raises(ValueError, match=expected):
            summed_over_flower(algorithm, InMemoryGrid({}), rounds=1, join_seconds=0, **options)
