"""The linear app of `flower_app` with clients that stay connected, in processes of their own."""

import os
import signal
import socket
import subprocess
import sys

from .linear_app import ENVIRONMENT

SERVER = """
import sys
from pathlib import Path
from fedjax_llm.flower.long_lived import Certificates, start_server
from fedjax_llm.flower.stream_grid import StreamGrid
from tests.helpers.flower_app.linear.server import app
pem = [Path(file).read_bytes() for file in sys.argv[5:]]
config = {
    "rounds": int(sys.argv[2]),
    "clients": sys.argv[3],
    "join-seconds": int(sys.argv[4]),
}
StreamGrid.join_seconds = 3
start_server(
    app,
    address=sys.argv[1],
    run_config=config,
    certificates=Certificates(*pem) if pem else None,
)
"""
CLIENT = """
import sys
from pathlib import Path
from fedjax_llm.flower.long_lived import Certificates, start_client
from tests.helpers.flower_app.linear.client import app
pem = [Path(file).read_bytes() for file in sys.argv[4:]]
start_client(
    app,
    address=sys.argv[1],
    node_config={"client": sys.argv[2]},
    certificates=Certificates(*pem) if pem else None,
    reconnect_seconds=int(sys.argv[3]),
)
"""


class LongLived:
    """A client process for each name, and servers that are started one after another.

    What they write lies in `out`, as with SuperNodes; all processes end with the context.
    `certificates` are files by the name of a client, and those of the server by "".
    """

    def __init__(self, out, names, certificates=None):
        self.out, self.names, self.certificates = out, names, certificates or {}
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        self.clients, self._all = {}, []

    def __enter__(self):
        for name in self.names:
            self.start_client(name)
        return self

    def __exit__(self, *_):
        for each in self._all:
            if each.poll() is None:
                each.send_signal(signal.SIGKILL)
            each.wait()

    def start_client(self, name, reconnect_seconds=120):
        words = (name, str(reconnect_seconds), *self.certificates.get(name, ()))
        self.clients[name] = self._start(CLIENT, f"client-{name}", *words)
        return self.clients[name]

    def start_server(self, rounds, names=None, join_seconds=60):
        words = (rounds, names or " ".join(self.names), join_seconds)
        return self._start(SERVER, "server", *words, *self.certificates.get("", ()))

    def log(self, name):
        return (self.out / f"{name}.log").read_text()

    def _start(self, code, log, *words):
        environment = {**os.environ, **ENVIRONMENT, "FLWR_TELEMETRY_ENABLED": "0"}
        with (self.out / f"{log}.log").open("ab") as file:
            self._all.append(
                subprocess.Popen(  # noqa: S603 - our own code
                    [sys.executable, "-c", code, self.address, *map(str, words)],
                    cwd=self.out,
                    env=environment,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )
        return self._all[-1]
