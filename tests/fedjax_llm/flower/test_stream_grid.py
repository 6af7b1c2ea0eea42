"""Connections that stay open, without sockets: what the grid asks of Flower's end of them."""

import threading
import time
from queue import SimpleQueue

import optax
import pytest
from fedjax_compression import codec
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import Code, FitIns, FitRes, Parameters, Status
from flwr.common.serde import fit_ins_to_proto, fit_res_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedjax_llm import algorithms, chunked, simulate, total_bytes
from fedjax_llm.aggregators import secure_mean
from fedjax_llm.flower import SecureSums, long_lived, stream_messages
from fedjax_llm.flower.nodes import Nodes
from fedjax_llm.flower.replies import ask, only
from fedjax_llm.flower.stream_grid import StreamGrid

from ...helpers.flower_nodes import bits, nodes, over_flower
from ...helpers.flower_task import BATCHING, LIKE, NAMES, PARAMS, corpus, loss
from ...helpers.in_memory_grid import InMemoryGrid

SECONDS = 20
"""Most that a test waits for what must come."""


class Connection:
    """A connection whose client answers an instruction with `answer(instruction)`."""

    def __init__(self, grid, answer, identity=None):
        self.results, self.ended = SimpleQueue(), []
        self.sent = grid.serve(
            iter(self.results.get, None), end=self.end, at_end=self.at_end, identity=identity
        )
        self.thread = threading.Thread(target=self.run, args=[answer], daemon=True)
        self.thread.start()

    def at_end(self, call):
        self.ended.append(call)
        return True

    def end(self):
        """As gRPC does: functions are called, and what is read ends."""
        for call in self.ended:
            call()
        self.results.put(None)

    def run(self, answer):
        for sent in self.sent:
            if sent.WhichOneof("msg") == "reconnect_ins":
                self.results.put(ClientMessage(disconnect_res=ClientMessage.DisconnectRes()))
                continue
            try:
                self.results.put(answer(sent))
            except ConnectionResetError:
                self.end()


@pytest.fixture
def connected():
    """A grid, and its connections by their numbers from 1 on."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 0, 1, 0

    def made(*answers):
        grid, connections = StreamGrid(), []
        for answer in answers:
            connections.append(Connection(grid, answer))
            until(lambda: len(grid.get_node_ids()) == len(connections))
        return grid, connections

    return made


def until(done):
    end = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < end
        time.sleep(0.002)


def echo(sent):
    """A result with the content of the message."""
    asked = stream_messages.asked(sent, 1)
    return stream_messages.result(Message(asked.content, reply_to=asked))


def to(node, text="hello", **options):
    content = RecordDict({"said": ConfigRecord({"text": text})})
    return Message(content, node, options.pop("kind", "train"), group_id="4", **options)


def reply_of(grid, message, *, most=10_000, timeout=SECONDS):
    return only(ask(grid, {0: message}, timeout, most)[0])


def in_process(nodes):
    """What the clients of some nodes answer, as `start_client` has it."""

    def of(node, app, config):
        context = Context(0, node, config, RecordDict(), {})
        return lambda sent: stream_messages.result(app(stream_messages.asked(sent, node), context))

    return [of(node, app, config) for node, (app, config) in nodes.items()]


def test_the_rounds_are_those_of_another_grid_bit_for_bit_and_bytes_are_real(connected, tmp_path):
    algorithm = algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=optax.sgd(0.1),
        uplink=codec("error_feedback(top_k(fraction=0.25))"),
    )
    sent = []

    def noting(answer):
        def noted(asked):
            given = answer(asked)
            group = stream_messages.asked(asked, 1).metadata.group_id
            if group:
                lengths = [len(each.SerializeToString()) for each in (given, asked)]
                sent.append((group, *lengths))
            return given

        return noted

    theirs = over_flower(algorithm, InMemoryGrid(nodes(algorithm, tmp_path / "memory")))
    here = nodes(algorithm, tmp_path / "stream")
    grid, _ = connected(*map(noting, in_process(here)))
    ours = over_flower(algorithm, grid)
    simulated = simulate(
        *(algorithm, PARAMS, (), corpus(), BATCHING),
        rounds=3,
        clients=3,
        seed=11,
        client_axis=chunked(1),
    )
    for mine, other, third in zip(ours, theirs, simulated, strict=True):
        assert bits(mine.state) == bits(other.state)
        assert mine.counted == other.counted
        for way in ("up", "down"):
            assert total_bytes(mine.messages, way) == total_bytes(third.messages, way)
        of_round = [each for each in sent if each[0] == str(mine.round)]
        assert len(of_round) == 3
        up, down = (sum(each[i] for each in of_round) for i in (1, 2))
        assert total_bytes(mine.messages, "up") + mine.envelope[0] == up
        assert total_bytes(mine.messages, "down") + mine.envelope[1] == down


def test_secure_sums_are_those_of_another_grid(connected, tmp_path):
    secure = SecureSums(clients=3)
    algorithm = algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=optax.sgd(0.1),
        uplink=codec("fixed_point(clip=0.05, bits=8, clients=3)"),
        aggregate=secure_mean(),
    )
    grid, _ = connected(*in_process(nodes(algorithm, tmp_path / "stream", secure)))
    memory = InMemoryGrid(nodes(algorithm, tmp_path / "memory", secure))
    ours, theirs = (
        over_flower(algorithm, each, rounds=2, secure=secure) for each in (grid, memory)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.counted == other.counted == mine.clients
        assert bits(mine.state) == bits(other.state)
        assert mine.messages == other.messages


def test_content_and_numbers_come_back(connected):
    grid, _ = connected(echo, echo)
    assert grid.get_node_ids() == [1, 2]
    found = ask(grid, {3: to(1, "one"), 4: to(2, "two")}, SECONDS, 10_000)
    texts = {who: only(each).content["said"]["text"] for who, each in found.items()}
    assert texts == {3: "one", 4: "two"}


def test_a_client_that_is_not_connected_has_no_reply(connected):
    grid, _ = connected(echo)
    assert grid.push_messages([to(8)]) == [""]
    assert ask(grid, {0: to(8)}, None, 10_000) == {0: []}


def test_what_an_app_raises_and_a_lost_connection_are_errors_with_the_reason(connected):
    def raised(sent):
        return stream_messages.result("<class 'ValueError'>:<'no'>")

    def gone(sent):
        raise ConnectionResetError

    grid, _ = connected(raised, gone)
    with pytest.raises(ValueError, match=r"expected an update, got error 2: .*ValueError.*no"):
        reply_of(grid, to(1))
    with pytest.raises(ValueError, match=r"got error 5: .*the connection has ended"):
        reply_of(grid, to(2), timeout=None)
    assert grid.get_node_ids() == [1]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (Parameters([], stream_messages.TENSOR_TYPE), "expected one tensor of type"),
        (Parameters([b"", b""], stream_messages.TENSOR_TYPE), "got 2 of type"),
        (Parameters([b""], "numpy.ndarray"), "got 1 of type 'numpy.ndarray'"),
        (Parameters([b"\xff\xff\xff"], stream_messages.TENSOR_TYPE), "DecodeError"),
        (Parameters([bytes(201)], stream_messages.TENSOR_TYPE), "expected at most 200 bytes"),
        (Parameters([bytes(90)] * 2, stream_messages.TENSOR_TYPE), "expected at most 200 bytes"),
        (None, "expected one tensor of type"),
    ],
)
def test_results_that_are_not_of_the_form_are_refused_by_name(connected, parameters, said):
    res = ClientMessage(disconnect_res=ClientMessage.DisconnectRes())
    if parameters:
        res = ClientMessage(
            fit_res=fit_res_to_proto(FitRes(Status(Code.OK, ""), parameters, 0, {}))
        )
    grid, _ = connected(lambda sent: res)
    with pytest.raises(ValueError, match=said):
        reply_of(grid, to(1), most=200)
    (told,) = grid.send_and_receive([to(1)]) if "at most" not in said else [None]
    assert told is None or told.has_error()


def test_a_late_result_is_dropped_and_the_next_message_waits_for_it(connected):
    """A straggler answers its old message after the round, which nobody waits for any more."""
    gate, begun = threading.Event(), []

    def slow(sent):
        begun.append(sent)
        assert gate.wait(SECONDS)
        return echo(sent)

    grid, _ = connected(slow)
    for text in ("old", "expires"):
        message = to(1, text, ttl=0.2)
        with pytest.raises(ValueError, match="got error 3: 'no reply in time'"):
            reply_of(grid, message, timeout=None)
    for _ in range(20):  # rounds whose messages nobody is told of: none of them is kept
        assert ask(grid, {0: to(1, "later", ttl=0.001)}, 0.0, 10_000) == {0: []}
        time.sleep(0.001)
    (name,) = grid.push_messages([to(1, "new", ttl=SECONDS)])
    assert list(grid._sent) == [name]
    gate.set()
    found = []
    until(lambda: found.extend(grid.pull_messages([name])) or found)
    assert [each.content["said"]["text"] for each in found] == ["new"]
    assert len(begun) == 2  # those that expired never reached it
    assert not grid._answered


def test_a_connection_that_does_not_say_who_it_is_ends(connected):
    grid, connections = connected(echo, lambda sent: time.sleep(SECONDS))
    asked = {0: to(2, kind="query.join", ttl=0.2)}
    with pytest.raises(ValueError, match="no reply in time"):
        only(ask(grid, asked, None, 10_000)[0])
    until(lambda: grid.get_node_ids() == [1])
    assert connections[1].ended


def test_the_name_in_a_certificate_is_the_one_that_a_client_may_say(connected, tmp_path):
    algorithm = algorithms.fed_avg(loss, LIKE, client_optimizer=optax.sgd(0.1))
    grid, _ = connected()
    here = nodes(algorithm, tmp_path)
    proved = {"ann": "ann", "bob": "bob", "cyn": "eve", "dan": None}
    for answer, (_, config) in zip(in_process(here), here.values(), strict=True):
        Connection(grid, answer, proved[config["client"]])
    until(lambda: len(grid.get_node_ids()) == 4)
    found = Nodes(grid, NAMES)
    assert sorted(NAMES[client] for client in found.find(SECONDS)) == ["ann", "bob", "dan"]
    assert "expected 'eve', the name in its certificate, got 'cyn'" in found.missing(2)


def test_the_end_of_the_grid_ends_clients_that_are_not_at_work(connected):
    gate = threading.Event()
    grid, connections = connected(echo, lambda sent: gate.wait(SECONDS) and echo(sent))
    grid.push_messages([to(2)])
    began = time.monotonic()
    grid.close(0.3)
    assert time.monotonic() - began < SECONDS / 2
    until(lambda: not connections[0].thread.is_alive())
    assert connections[1].thread.is_alive()
    gate.set()
    until(lambda: not connections[1].thread.is_alive())


def test_a_connection_that_ended_before_it_began_is_no_node():
    grid = StreamGrid()
    sent = grid.serve(iter(()), end=lambda: None, at_end=lambda call: False, identity=None)
    assert list(sent) == []
    assert grid.get_node_ids() == []


def test_an_instruction_of_another_form_is_refused():
    ins = FitIns(Parameters([b""], stream_messages.TENSOR_TYPE), {"type": 3})
    with pytest.raises(ValueError, match="expected a type and a group"):
        stream_messages.asked(ServerMessage(fit_ins=fit_ins_to_proto(ins)), 1)
    with pytest.raises(ValueError, match="expected one to fit, got get_parameters_ins"):
        stream_messages.asked(ServerMessage(get_parameters_ins=ServerMessage.GetParametersIns()), 1)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", "expected HOST:PORT, got '127.0.0.1'"),
        ("example.org:8080", "expected the loopback interface, without certificates"),
        ("0.0.0.0:8080", "expected the loopback interface, without certificates"),
        ("[::]:8080", "expected the loopback interface, without certificates"),
    ],
)
def test_others_than_this_machine_need_certificates(address, said):
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        long_lived.start_server(ServerApp(), address=address)
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        long_lived.start_client(ClientApp(), address=address, node_config={})


def test_an_unknown_flower_and_no_bytes_are_refused_by_name(monkeypatch):
    with pytest.raises(ValueError, match="start_server: most_bytes: expected"):
        long_lived.start_server(ServerApp(), address="localhost:80", most_bytes=0)
    monkeypatch.setattr(long_lived.flwr, "__version__", "2.0.0")
    with pytest.raises(RuntimeError, match=r"start_server: flwr: expected 1\.42\.\*, got 2\.0\.0"):
        long_lived.start_server(ServerApp(), address="localhost:80")
