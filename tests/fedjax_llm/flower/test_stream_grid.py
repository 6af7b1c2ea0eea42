"""Connections that stay open, without sockets: what the grid asks of Flower's end of them."""

import threading
import time

import optax
import pytest
from fedjax_compression import codec
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Parameters, Status
from flwr.common.serde import fit_ins_to_proto, fit_res_to_proto
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.server import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp import ServerApp
from flwr.supercore.task_identity import TaskIdentity

from fedjax_llm import algorithms, chunked, simulate, total_bytes
from fedjax_llm.aggregators import secure_mean
from fedjax_llm.flower import SecureSums, long_lived, stream_messages
from fedjax_llm.flower.replies import ask, only
from fedjax_llm.flower.stream_grid import StreamGrid

from ...helpers.flower_nodes import bits, nodes, over_flower
from ...helpers.flower_task import BATCHING, LIKE, PARAMS, corpus, loss
from ...helpers.in_memory_grid import InMemoryGrid

SECONDS = 20
"""Most that a test waits for what must come."""


class Connected(ClientProxy):
    """A client whose results are those of `answer(instruction)`."""

    def __init__(self, number, answer):
        super().__init__(f"{number:015x}{'0' * 17}")
        self.answer = answer

    def fit(self, ins, timeout, group_id):
        return self.answer(ins)

    get_properties = get_parameters = evaluate = reconnect = None


@pytest.fixture
def connected():
    """A grid of clients by their numbers."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 0, 1, 0

    def grid(clients):
        manager = SimpleClientManager()
        for number, answer in clients.items():
            assert manager.register(Connected(number, answer))
        return StreamGrid(manager), manager

    return grid


def echo(ins):
    """A result with the type of the message and its content."""
    asked = stream_messages.asked(ins, 1)
    return stream_messages.result(Message(asked.content, reply_to=asked))


def to(node, text="hello", **options):
    content = RecordDict({"said": ConfigRecord({"text": text})})
    return Message(content, node, "train", group_id="4", **options)


def reply_of(grid, message, *, most=10_000, timeout=SECONDS):
    return only(ask(grid, {0: message}, timeout, most)[0])


def in_process(node, app, config):
    """A client that answers as `start_client` has it."""
    context = Context(0, node, config, RecordDict(), {})

    def answer(ins):
        return stream_messages.result(app(stream_messages.asked(ins, node), context))

    return answer


def test_the_rounds_are_those_of_another_grid_bit_for_bit_and_bytes_are_real(connected, tmp_path):
    algorithm = algorithms.fed_avg(
        loss,
        LIKE,
        client_optimizer=optax.sgd(0.1),
        uplink=codec("error_feedback(top_k(fraction=0.25))"),
    )
    sent = []

    def noting(answer):
        def noted(ins):
            down = ServerMessage(fit_ins=fit_ins_to_proto(ins)).SerializeToString()
            res = answer(ins)
            up = ClientMessage(fit_res=fit_res_to_proto(res)).SerializeToString()
            if ins.config["type"] == "train":
                sent.append((ins.config["group"], len(up), len(down)))
            return res

        return noted

    theirs = over_flower(algorithm, InMemoryGrid(nodes(algorithm, tmp_path / "memory")))
    here = nodes(algorithm, tmp_path / "stream")
    grid, _ = connected(
        {node: noting(in_process(node, app, config)) for node, (app, config) in here.items()}
    )
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
    here = nodes(algorithm, tmp_path / "stream", secure)
    grid, _ = connected(
        {node: in_process(node, app, config) for node, (app, config) in here.items()}
    )
    memory = InMemoryGrid(nodes(algorithm, tmp_path / "memory", secure))
    ours, theirs = (
        over_flower(algorithm, each, rounds=2, secure=secure) for each in (grid, memory)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.counted == other.counted == mine.clients
        assert bits(mine.state) == bits(other.state)
        assert mine.messages == other.messages


def test_content_and_numbers_come_back(connected):
    grid, _ = connected({7: echo, 2**59: echo})
    assert grid.get_node_ids() == [7, 2**59]
    asked = {3: to(7, "one"), 4: to(2**59, "two")}
    found = ask(grid, asked, SECONDS, 10_000)
    assert {who: only(each).content["said"]["text"] for who, each in found.items()} == {
        3: "one",
        4: "two",
    }


def test_a_client_that_is_not_connected_has_no_reply(connected):
    grid, _ = connected({7: echo})
    assert grid.push_messages([to(8)]) == [""]
    assert ask(grid, {0: to(8)}, None, 10_000) == {0: []}


def test_what_an_app_raises_and_a_lost_connection_are_errors_with_the_reason(connected):
    def raised(ins):
        return stream_messages.result(stream_messages.Failure(2, "<class 'ValueError'>:<'no'>"))

    def gone(ins):
        raise ConnectionResetError("bridge closed")

    grid, _ = connected({7: raised, 8: gone})
    with pytest.raises(ValueError, match=r"expected an update, got error 2: .*ValueError.*no"):
        reply_of(grid, to(7))
    with pytest.raises(ValueError, match=r"got error 5: .*connection has ended.*bridge closed"):
        reply_of(grid, to(8))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (Parameters([], stream_messages.TENSOR_TYPE), "expected one tensor of type"),
        (Parameters([b"", b""], stream_messages.TENSOR_TYPE), "got 2 of type"),
        (Parameters([b""], "numpy.ndarray"), "got 1 of type 'numpy.ndarray'"),
        (Parameters([b"\xff\xff\xff"], stream_messages.TENSOR_TYPE), "DecodeError"),
        (Parameters([bytes(101)], stream_messages.TENSOR_TYPE), "expected at most 100 bytes"),
        (Parameters([bytes(60)] * 2, stream_messages.TENSOR_TYPE), "expected at most 100 bytes"),
    ],
)
def test_results_that_are_not_of_the_form_are_refused_by_name(connected, parameters, said):
    grid, _ = connected({7: lambda ins: FitRes(Status(Code.OK, ""), parameters, 0, {})})
    with pytest.raises(ValueError, match=said):
        reply_of(grid, to(7), most=100)


def test_a_late_result_is_dropped_and_the_next_message_waits_for_it(connected):
    """A straggler answers its old message after the round, which nobody waits for any more."""
    gate, begun = threading.Event(), []

    def slow(ins):
        begun.append(ins.config["group"])
        assert gate.wait(SECONDS)
        return echo(ins)

    grid, _ = connected({7: slow})
    assert ask(grid, {0: to(7, "old", ttl=0.2)}, 0.2, 10_000) == {0: []}
    assert ask(grid, {0: to(7, "expires", ttl=0.2)}, 0.2, 10_000) == {0: []}
    (name,) = grid.push_messages([to(7, "new", ttl=SECONDS)])
    gate.set()
    until = time.monotonic() + SECONDS
    while not (found := grid.pull_messages([name])) and time.monotonic() < until:
        grid.wait(0.1)
    assert [each.content["said"]["text"] for each in found] == ["new"]
    assert len(begun) == 2  # the expired one never reached it
    assert not grid._answered


def test_a_reply_can_be_pulled_once_and_clients_that_left_leave_no_thread(connected):
    grid, manager = connected({7: echo, 8: echo})
    replies = grid.send_and_receive([to(7), to(8)], timeout=SECONDS)
    assert len(replies) == 2
    assert grid.pull_messages([each.metadata.reply_to_message_id for each in replies]) == []
    for client in list(manager.all().values()):
        manager.unregister(client)
    assert grid.push_messages([to(7)]) == [""]
    assert grid._threads == {}


def test_an_instruction_of_another_form_is_refused():
    ins = stream_messages.FitIns(Parameters([b""], stream_messages.TENSOR_TYPE), {"type": 3})
    with pytest.raises(ValueError, match="expected a type and a group"):
        stream_messages.asked(ins, 1)


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
