"""Clients that stay connected, as processes on the loopback interface."""

import subprocess
import time
from contextlib import ExitStack
from queue import SimpleQueue

import grpc
import pytest
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from fedjax_llm import chunked, simulate, total_bytes
from fedjax_llm.flower.server_app import last_standing
from fedjax_llm.locks import locked

from ...helpers.flower_app.linear.federation import algorithm
from ...helpers.flower_nodes import bits
from ...helpers.flower_task import BATCHING, PARAMS, corpus
from ...helpers.linear_app import rows
from ...helpers.long_lived import LongLived
from .test_over_sockets import made_by_the_recipe

SECONDS = 200
"""Most that any wait may take."""
NAMES = ("ann", "bob", "cyn", "dan")


def simulated(rounds):
    return list(
        simulate(
            *(algorithm(), PARAMS, (), corpus(), BATCHING),
            rounds=rounds,
            clients=len(NAMES),
            seed=11,
            client_axis=chunked(1),
        )
    )


def until(done, process):
    end = time.monotonic() + SECONDS
    while not done():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_a_server_that_was_killed_resumes_with_the_same_clients_to_the_bits_of_the_simulation(
    tmp_path,
):
    with LongLived(tmp_path, NAMES) as federation:
        first = federation.start_server(100_000)
        until(lambda: len(rows(tmp_path)) >= 3, first)
        first.kill()
        first.wait()
        last = len(rows(tmp_path)) + 3
        assert federation.start_server(last).wait(SECONDS) == 0, federation.log("server")
        for client in federation.clients.values():
            assert client.wait(SECONDS) == 0
    found = rows(tmp_path)
    expected = simulated(last)
    assert [row["round"] for row in found] == list(range(1, last + 1))
    for row, each in zip(found, expected, strict=True):
        assert row["failed"] == {}
        assert row["counted"] == list(NAMES)
        assert row["up_bytes"] == total_bytes(each.messages, "up")
        assert row["down_bytes"] == total_bytes(each.messages, "down")
    standing = last_standing(algorithm(), PARAMS, folder=tmp_path / "server", run="linear", seed=11)
    assert standing.round == last
    assert bits(standing.state.params) == bits(expected[-1].state.params)


@pytest.mark.slow
def test_a_client_that_was_killed_counts_as_failed_and_comes_back(tmp_path):
    with LongLived(tmp_path, NAMES[:2]) as federation:
        server = federation.start_server(100_000)
        until(lambda: len(rows(tmp_path)) >= 2, server)
        federation.clients["bob"].kill()
        until(lambda: rows(tmp_path)[-1]["counted"] == ["ann"], server)
        federation.start_client("bob")
        until(lambda: rows(tmp_path)[-1]["counted"] == ["ann", "bob"], server)
    reasons = {why for row in rows(tmp_path) for why in row["failed"].values()}
    assert any("one node of this client, got 0" in why for why in reasons), reasons


@pytest.mark.slow
def test_with_certificates_each_client_takes_part_under_its_own_name_alone(tmp_path):
    """Bob shows the certificate of eve, and cyn one that she signed herself."""
    keys = tmp_path / "keys"
    secured = made_by_the_recipe(keys, ())
    files = {"": (secured.ca, secured.certificate, secured.key)}
    files |= {name: signed(keys, name) for name in ("ann", "eve")}
    files["bob"] = files.pop("eve")
    files["cyn"] = signed(keys, "cyn", by_itself=True)
    with LongLived(tmp_path, NAMES[:3], files) as federation:
        federation.clients["cyn"].kill()
        cyn = federation.start_client("cyn", reconnect_seconds=5)
        server = federation.start_server(2, "ann bob cyn", join_seconds=15)
        assert server.wait(SECONDS) == 0, federation.log("server")
        assert federation.clients["ann"].wait(SECONDS) == 0
        assert cyn.wait(SECONDS) == 1
    found = rows(tmp_path)
    assert [row["counted"] for row in found] == [["ann"]] * 2
    why = found[0]["failed"]["bob"]
    assert "expected 'eve', the name in its certificate, got 'bob'" in why, why
    assert "ConnectionError" in federation.log("client-cyn")


def signed(folder, name, *, by_itself=False):
    """The authority's certificate, and a client's with its key, by openssl."""
    key, asks, certificate = (folder / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
    commands = [
        f"openssl ecparam -name secp384r1 -genkey -noout -out {key}",
        f"openssl req -new -key {key} -subj /CN={name} -out {asks}",
        f"openssl x509 -req -in {asks} -CA ca.crt -CAkey ca.key -CAcreateserial -days 9 "
        f"-out {certificate}",
    ]
    if by_itself:
        commands[2] = f"openssl x509 -req -in {asks} -signkey {key} -days 9 -out {certificate}"
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)  # noqa: S603
    return folder / "ca.crt", certificate, key


@pytest.mark.slow
def test_silent_connections_hold_up_neither_rounds_nor_the_end(tmp_path):
    with LongLived(tmp_path, NAMES[:1]) as federation, ExitStack() as stack:
        server = federation.start_server(3)
        until(lambda: "listening" in federation.log("server"), server)
        for _ in range(2):
            channel = stack.enter_context(grpc.insecure_channel(federation.address))
            silence = SimpleQueue()
            stack.callback(silence.put, None)
            FlowerServiceStub(channel).Join(iter(silence.get, None))
        assert server.wait(SECONDS) == 0, federation.log("server")
        assert federation.clients["ann"].wait(SECONDS) == 0
    assert [row["counted"] for row in rows(tmp_path)] == [["ann"]] * 3


@pytest.mark.slow
def test_a_server_whose_app_fails_ends_and_leaves_its_port_and_clients_for_the_next(tmp_path):
    with LongLived(tmp_path, NAMES[:1]) as federation:
        place = tmp_path / "server/run-linear"
        place.mkdir(parents=True)
        with locked(place):
            assert federation.start_server(2).wait(SECONDS) == 1
        assert "no other run writes to" in federation.log("server")
        assert federation.start_server(2).wait(SECONDS) == 0, federation.log("server")
        assert federation.clients["ann"].wait(SECONDS) == 0
        first = federation.start_server(100_000)
        until(lambda: federation.log("server").count("listening") == 3, first)
        assert federation.start_server(2).wait(SECONDS) == 1
        assert "expected a free one, got 127.0.0.1:" in federation.log("server")


@pytest.mark.slow
def test_a_client_gives_up_a_server_that_never_starts(tmp_path):
    with LongLived(tmp_path, ()) as federation:
        ann = federation.start_client("ann", reconnect_seconds=1)
        assert ann.wait(SECONDS) == 1
        said = federation.log("client-ann").splitlines()[-1]
    assert said.startswith("ConnectionError: start_client: address: expected a server at 127.0.0.1")
