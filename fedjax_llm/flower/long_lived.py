"""Clients that stay connected: one process for each client, and one for the server, without nodes.

They are the apps of `server_app` and `client_app` over the service that Flower's own
`start_server` and `start_client` speak, which Flower calls deprecated. A message takes milliseconds
there.
"""

import ipaddress
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from logging import INFO
from queue import SimpleQueue
from typing import Any, NamedTuple

import grpc
from fedjax_compression.checks import check_kind
from fedjax_compression.errors import message
from flwr.app import Context, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common import log
from flwr.proto.transport_pb2 import ClientMessage, ServerMessage
from flwr.proto.transport_pb2_grpc import (
    FlowerServiceServicer,
    FlowerServiceStub,
    add_FlowerServiceServicer_to_server,
)
from flwr.serverapp import ServerApp

from ..checks import check_count
from ..simulation.checks import check_seconds
from . import stream_messages
from .installed import KNOWN, flwr, is_known
from .stream_grid import StreamGrid

MOST_BYTES = 2**29
"""Most bytes of one message, unless `start_server` and `start_client` are told otherwise."""
MOST_CLIENTS = 1000
_NODE = 1
_GOODBYE_SECONDS = 10
_RETRY_SECONDS = 0.5
_STABLE_SECONDS = 5
"""A connection that lasted so long had been there, whatever ended it."""
_ALIVE = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 20_000))
"""Either end asks whether the other is still there, after half a minute without a message."""


class Certificates(NamedTuple):
    """What each end shows to the other, in PEM.

    Attributes:
        authority: The certificate of the authority that signed those of server and clients.
        certificate: The own certificate. A client's common name is the name of the client; a
            server's alternative names have the host of its address.
        key: The private key of the own certificate.

    """

    authority: bytes
    certificate: bytes
    key: bytes


def start_server(
    app: ServerApp,
    *,
    address: str,
    certificates: Certificates | None = None,
    run_config: UserConfig | None = None,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Run a server's app for clients that connect with `start_client`, and let them end with it.

    At most 1,000 clients are connected at once. With `certificates` a client is connected if the
    authority has signed its certificate, and takes part under the name in it alone. Without them,
    whoever reaches the loopback interface can take part under any name.

    Args:
        app: The server's app, such as that of `server_app`.
        address: Where to listen: `HOST:PORT`.
        certificates: The server's certificates; None, the default, only on the loopback interface.
        run_config: What the app reads as `context.run_config`. Empty by default.
        most_bytes: Most bytes of one message; 2^29 by default.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an address without a port, or beyond the loopback interface without
            certificates; for a number out of range.
        OSError: For an address where nobody can listen.
        RuntimeError: For a version of Flower that it was not tried with.

    Example:
        >>> from pathlib import Path
        >>> from fedjax_llm.flower import server_app
        >>> from fedjax_llm.flower.long_lived import start_server
        >>> def serve(algorithm, params, batches):
        ...     app = server_app(
        ...         algorithm, params, (), batches, ("ann", "bob"),
        ...         folder=Path("server"), run="first", rounds=10, clients=2, seed=0,
        ...     )
        ...     start_server(app, address="127.0.0.1:8080")

    """
    who = "start_server"
    _check(who, app, ServerApp, address, certificates, most_bytes)
    _without_a_run()
    grid = StreamGrid()
    options = [
        *_lengths(most_bytes),
        *_ALIVE,
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(
        ThreadPoolExecutor(MOST_CLIENTS), options=options, maximum_concurrent_rpcs=MOST_CLIENTS
    )
    add_FlowerServiceServicer_to_server(_Servicer(grid), server)
    _listen(server, address, certificates)
    server.start()
    log(INFO, "listening on %s", address)
    try:
        app(grid, Context(0, _NODE, {}, RecordDict(), dict(run_config or {})))
        grid.close(_GOODBYE_SECONDS)
    finally:
        server.stop(grace=0).wait()


def start_client(
    app: ClientApp,
    *,
    address: str,
    node_config: UserConfig,
    certificates: Certificates | None = None,
    reconnect_seconds: float | int = 60,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Serve a server of `start_server` with a client's app, until that server has finished.

    The process keeps the app, with what it has compiled, for all rounds. Where the server cannot be
    reached, as it has not started yet or starts again, the client tries again.

    Args:
        app: The client's app, such as that of `client_app`.
        address: The server's address: `HOST:PORT`.
        node_config: What the app reads as `context.node_config`, such as `{"client": "ann"}`.
        certificates: The client's certificates; None, the default, only on the loopback interface.
        reconnect_seconds: Seconds after which the client gives a server up that it cannot reach. 60
            by default.
        most_bytes: Most bytes of one message; as the server's.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an address without a port, or beyond the loopback interface without
            certificates; for a number out of range.
        RuntimeError: For a version of Flower that it was not tried with.
        ConnectionError: For a server that cannot be reached, or that ended the connection for
            another reason, such as a message above its `most_bytes`.

    Example:
        >>> from pathlib import Path
        >>> from fedjax_llm.flower import client_app
        >>> from fedjax_llm.flower.long_lived import start_client
        >>> def take_part(algorithm, params, corpus, batching):
        ...     app = client_app(algorithm, params, (), corpus, batching, folder=Path("ann"))
        ...     start_client(app, address="127.0.0.1:8080", node_config={"client": "ann"})

    """
    who = "start_client"
    _check(who, app, ClientApp, address, certificates, most_bytes)
    check_seconds(reconnect_seconds, who=who, name="reconnect_seconds")
    _without_a_run()
    context = Context(0, _NODE, dict(node_config), RecordDict(), {})

    def answer(sent: ServerMessage) -> ClientMessage:
        try:
            return stream_messages.result(app(stream_messages.asked(sent, _NODE), context))
        except Exception as error:
            return stream_messages.result(f"{type(error)}:<'{error}'>")  # as flwr-clientapp has it

    reached = time.monotonic()
    while True:
        with _channel(address, certificates, most_bytes) as channel:
            left = max(reached + reconnect_seconds - time.monotonic(), 0.0)
            try:
                grpc.channel_ready_future(channel).result(timeout=left)
            except grpc.FutureTimeoutError:
                raise ConnectionError(_unreached(address, "none")) from None
            log(INFO, "connected to %s", address)
            began = time.monotonic()
            try:
                if _serve(channel, answer):
                    return
                lost = "the connection has ended"
            except grpc.RpcError as error:
                lost = f"{error.code()}: {error.details()}"
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise ConnectionError(_unreached(address, lost)) from error
        now = time.monotonic()
        if now - began > _STABLE_SECONDS:
            reached = now
        elif now - reached > reconnect_seconds:
            raise ConnectionError(_unreached(address, lost))
        log(INFO, "the connection has ended (%s); trying again", lost)
        time.sleep(_RETRY_SECONDS)


def _serve(channel: grpc.Channel, answer: Callable[[ServerMessage], ClientMessage]) -> bool:
    """Answer a server's messages; True once it has said that it is done."""
    results: SimpleQueue[ClientMessage | None] = SimpleQueue()
    done = False
    try:
        for sent in FlowerServiceStub(channel).Join(iter(results.get, None)):
            done = sent.WhichOneof("msg") == "reconnect_ins"
            if done:
                results.put(ClientMessage(disconnect_res=ClientMessage.DisconnectRes()))
            else:
                results.put(answer(sent))
    except grpc.RpcError:
        if not done:
            raise
    finally:
        results.put(None)  # ends the thread that sends
    return done


class _Servicer(FlowerServiceServicer):
    def __init__(self, grid: StreamGrid) -> None:
        self._grid = grid

    def Join(  # noqa: N802 - of Flower's service
        self, request_iterator: Iterator[ClientMessage], context: grpc.ServicerContext
    ) -> Iterator[ServerMessage]:
        """Serve a client."""
        names = context.auth_context().get("x509_common_name", [])
        try:
            yield from self._grid.serve(
                request_iterator,
                end=context.cancel,
                at_end=context.add_callback,
                identity=names[0].decode(errors="replace") if names else None,
            )
        except grpc.RpcError:  # the client has gone
            return


def _listen(server: grpc.Server, address: str, certificates: Certificates | None) -> None:
    try:
        if certificates:
            own = [(certificates.key, certificates.certificate)]
            secured = grpc.ssl_server_credentials(own, certificates.authority, True)
            port = server.add_secure_port(address, secured)
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"start_server: address: expected a free one, got {address}.") from error
    if not port:
        raise OSError(f"start_server: address: expected a free one, got {address}.")


def _channel(address: str, certificates: Certificates | None, most_bytes: int) -> grpc.Channel:
    options = [*_lengths(most_bytes), *_ALIVE]
    if certificates is None:
        return grpc.insecure_channel(address, options=options)
    authority, certificate, key = certificates
    secured = grpc.ssl_channel_credentials(
        authority, private_key=key, certificate_chain=certificate
    )
    return grpc.secure_channel(address, secured, options=options)


def _lengths(most_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", most_bytes),
        ("grpc.max_receive_message_length", most_bytes),
    ]


def _unreached(address: str, got: str) -> str:
    return message("start_client", "address", f"a server at {address}", got)


def _check(
    who: str,
    app: Any,
    kind: type,
    address: str,
    certificates: Certificates | None,
    most_bytes: int,
) -> None:
    if not is_known():
        raise RuntimeError(
            f"{who}: flwr: expected {KNOWN[0]}*, got {flwr.__version__}; start a SuperLink and "
            "SuperNodes instead, which need no such functions of Flower."
        )
    check_kind(app, kind, who=who, name="app", expected=f"a flwr {kind.__name__}")
    check_count(most_bytes, who=who, name="most_bytes", at_most=2**31 - 1)
    check_kind(address, str, who=who, name="address", expected="HOST:PORT")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(message(who, "address", "HOST:PORT", address))
    if certificates is None and not _is_loopback(host):
        remedy = "give certificates, as others could read and change the messages"
        raise ValueError(
            message(who, "address", "the loopback interface, without certificates", address, remedy)
        )
    if certificates is not None:
        expected = "Certificates(authority, certificate, key)"
        check_kind(certificates, Certificates, who=who, name="certificates", expected=expected)


def _without_a_run() -> None:
    """Let messages be made in a process that no SuperLink or SuperNode has started."""
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415 - only where known

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 0, _NODE, 0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
