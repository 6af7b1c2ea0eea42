"""Clients that stay connected: one process for each client, and one for the server, without nodes.

They are the apps of `server_app` and `client_app` over `flwr.server.start_server` and
`flwr.client.start_client`, which Flower calls deprecated. A message takes milliseconds there. But
any process that reaches the server may say that it is any client.
"""

import ipaddress
import time
from typing import Any

import grpc
from fedjax_compression.checks import check_kind
from fedjax_compression.errors import message
from flwr.app import Context, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common import FitIns, FitRes
from flwr.common.constant import ErrorCode
from flwr.serverapp import ServerApp

from ..checks import check_count
from ..simulation.checks import check_seconds
from . import stream_messages
from .installed import KNOWN, flwr, is_known
from .stream_grid import StreamGrid

MOST_BYTES = 2**29
"""Most bytes of one message, unless `start_server` and `start_client` are told otherwise."""
_NODE = 1
_RETRY_SECONDS = 0.5
_CONNECTING_SECONDS = 30
"""A connection that fails later had been there: gRPC gives up within 20 seconds."""


def start_server(
    app: ServerApp,
    *,
    address: str,
    certificates: tuple[bytes, bytes, bytes] | None = None,
    run_config: UserConfig | None = None,
    most_bytes: int = MOST_BYTES,
) -> None:
    """Run a server's app for clients that connect with `start_client`, and let them end with it.

    It is to be called from the main thread of a process, and takes up to 1,000 clients. There is no
    authentication of clients: whoever reaches `address` can take part under a name of the roster.
    So let it listen on the loopback interface, in a network of your own, or behind a proxy that
    asks for certificates of clients.

    Args:
        app: The server's app, such as that of `server_app`.
        address: Where to listen: `HOST:PORT`.
        certificates: The certificate of the authority, the server's certificate and its private
            key, in PEM. None, the default, only on the loopback interface.
        run_config: What the app reads as `context.run_config`. Empty by default.
        most_bytes: Most bytes of one message, which bounds the memory that a client can take. 2^29
            by default.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an address without a port, or beyond the loopback interface without
            certificates; for a number out of range.
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
    _check(who, app, ServerApp, address, secured=certificates is not None, most_bytes=most_bytes)
    import flwr.server as flowers  # noqa: PLC0415 - once the version is known

    _without_a_run()
    manager = flowers.SimpleClientManager()
    context = Context(0, _NODE, {}, RecordDict(), dict(run_config or {}))

    class OfApp(flowers.Server):
        def fit(self, num_rounds: int, timeout: float | None) -> tuple[Any, float]:
            app(StreamGrid(manager), context)
            return flowers.History(), 0.0

    flowers.start_server(
        server_address=address,
        server=OfApp(client_manager=manager),
        config=flowers.ServerConfig(),
        grpc_max_message_length=most_bytes,
        certificates=certificates,
    )


def start_client(
    app: ClientApp,
    *,
    address: str,
    node_config: UserConfig,
    root_certificates: bytes | None = None,
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
        root_certificates: The certificate of the authority that signed the server's, in PEM. None,
            the default, only on the loopback interface.
        reconnect_seconds: Seconds after which the client gives a server up that it cannot reach. 60
            by default.
        most_bytes: Most bytes of one message; as the server's.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an address without a port, or beyond the loopback interface without
            certificates; for a number out of range.
        RuntimeError: For a version of Flower that it was not tried with.
        ConnectionError: For a server that cannot be reached.

    Example:
        >>> from pathlib import Path
        >>> from fedjax_llm.flower import client_app
        >>> from fedjax_llm.flower.long_lived import start_client
        >>> def take_part(algorithm, params, corpus, batching):
        ...     app = client_app(algorithm, params, (), corpus, batching, folder=Path("ann"))
        ...     start_client(app, address="127.0.0.1:8080", node_config={"client": "ann"})

    """
    who = "start_client"
    secured = root_certificates is not None
    _check(who, app, ClientApp, address, secured=secured, most_bytes=most_bytes)
    check_seconds(reconnect_seconds, who=who, name="reconnect_seconds")
    import flwr.client as flowers  # noqa: PLC0415 - once the version is known

    _without_a_run()
    context = Context(0, _NODE, dict(node_config), RecordDict(), {})
    reached = time.monotonic()

    class OfApp(flowers.Client):
        def fit(self, ins: FitIns) -> FitRes:
            nonlocal reached
            try:
                return stream_messages.result(app(stream_messages.asked(ins, _NODE), context))
            except Exception as error:
                failure = f"{type(error)}:<'{error}'>"  # as flwr-clientapp words it
                code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                return stream_messages.result(stream_messages.Failure(code, failure))
            finally:
                reached = time.monotonic()

    client = OfApp()
    while True:
        began = time.monotonic()
        try:
            flowers.start_client(
                server_address=address,
                client=client,
                grpc_max_message_length=most_bytes,
                root_certificates=root_certificates,
                insecure=not secured,
            )
            return
        except grpc.RpcError as error:
            code, now = error.code() if isinstance(error, grpc.Call) else None, time.monotonic()
            if now - began > _CONNECTING_SECONDS:
                reached = now
            if code is not grpc.StatusCode.UNAVAILABLE or now - reached > reconnect_seconds:
                text = message(who, "address", f"a server at {address}", str(code))
                raise ConnectionError(text) from error
            time.sleep(_RETRY_SECONDS)


def _check(who: str, app: Any, kind: type, address: str, *, secured: bool, most_bytes: int) -> None:
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
    if not secured and not _is_loopback(host):
        remedy = "give certificates, as others could read and change the messages"
        raise ValueError(
            message(who, "address", "the loopback interface, without certificates", address, remedy)
        )


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
