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
from fedjax_llm.flower.long_lived import start_server
from tests.helpers.flower_app.linear.server import app
pem = [Path(file).read_bytes() for file in sys.argv[4:]]
config = {"rounds": int(sys.argv[2]), "clients": sys.argv[3], "join-seconds": 60}
start_server(app, address=sys.argv[1], run_config=config, certificates=tuple(pem) or None)
"""
CLIENT = """
import sys
from pathlib import Path
from fedjax_llm.flower.long_lived import start_client
from tests.helpers.flower_app.linear.client import app
pem = Path(sys.argv[4]).read_bytes() if sys.argv[4:] else None
start_client(
    app,
    address=sys.argv[1],
    node_config={"client": sys.argv[2]},
    root_certificates=pem,
    reconnect_seconds=int(sys.argv[3]),
)
"""


class LongLived:
    """A client process for each name, and servers that are started one after another.

    What they write lies in `out`, as with SuperNodes; all processes end with the context.
    """

    def __init__(self, out, names, certificates=()):
        self.out, self.names, self.certificates = out, names, [str(each) for each in certificates]
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
        words = (name, str(reconnect_seconds), *self.certificates[:1])
        self.clients[name] = self._start(CLIENT, f"client-{name}", *words)
        return self.clients[name]

    def start_server(self, rounds):
        names = " ".join(self.names)
        return self._start(SERVER, "server", str(rounds), names, *self.certificates)

    def log(self, name):
        return (self.out / f"{name}.log").read_text()

    def _start(self, code, log, *words):
        environment = {**os.environ, **ENVIRONMENT, "FLWR_TELEMETRY_ENABLED": "0"}
        with (self.out / f"{log}.log").open("ab") as file:
            self._all.append(
                subprocess.Popen(  # noqa: S603 - our own code
                    [sys.executable, "-c", code, self.address, *words],
                    cwd=self.out,
                    env=environment,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )
        return self._all[-1]
