"""A TCP proxy on the loopback interface that counts the bytes of both directions."""

import socket
import threading
from contextlib import suppress


class CountingProxy:
    """Passes connections on to `port` and counts: bytes `up` to it, `down` from it, and requests.

    A context manager; `address` is where it listens.
    """

    def __init__(self, port):
        self.up = self.down = self.requests = 0
        self._port, self._lock = port, threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.close()

    def _accept(self):
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:  # closed
                return
            try:
                there = socket.create_connection(("127.0.0.1", self._port))
            except OSError:  # this connection alone
                here.close()
                continue
            for pair in ((here, there, True), (there, here, False)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source, target, is_up):
        try:
            while data := source.recv(2**16):
                with self._lock:
                    if is_up:
                        self.up += len(data)
                        self.requests += data.count(b" HTTP/1.1\r\n")
                    else:
                        self.down += len(data)
                target.sendall(data)
        except OSError:  # one end is gone
            pass
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
