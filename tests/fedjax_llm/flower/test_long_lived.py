"""Clients that stay connected, as processes on the loopback interface."""

import time

import pytest

from fedjax_llm import chunked, simulate, total_bytes
from fedjax_llm.flower.server_app import last_standing

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
def test_over_tls_a_client_without_the_authoritys_certificate_is_not_connected(tmp_path):
    secured = made_by_the_recipe(tmp_path / "keys", ())
    files = (secured.ca, secured.certificate, secured.key)
    with LongLived(tmp_path, ("ann",), files) as federation:
        stranger = LongLived(tmp_path, ())
        stranger.address = federation.address
        with stranger:
            bob = stranger.start_client("bob")
            server = federation.start_server(3)
            assert server.wait(SECONDS) == 0, federation.log("server")
            assert federation.clients["ann"].wait(SECONDS) == 0
            assert bob.poll() is None  # it still tries
    assert [row["counted"] for row in rows(tmp_path)] == [["ann"]] * 3


@pytest.mark.slow
def test_a_client_gives_up_a_server_that_never_starts(tmp_path):
    with LongLived(tmp_path, ()) as federation:
        ann = federation.start_client("ann", reconnect_seconds=1)
        assert ann.wait(SECONDS) == 1
        said = federation.log("client-ann").splitlines()[-1]
    assert said.startswith("ConnectionError: start_client: address: expected a server at 127.0.0.1")
