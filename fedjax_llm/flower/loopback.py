"""A SuperLink and SuperNodes on the loopback interface of this machine, and their ends."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from fedjax_compression.errors import message

from . import keeper
from .installed import KNOWN, flwr, is_known

HOST = "127.0.0.1"
BIN = Path(sys.executable).parent
_START_SECONDS = 120.0
_ASK_SECONDS = 600.0


class Node(NamedTuple):
    """The processes of a SuperNode.

    Attributes:
        name: The node's name, that of its log.
        supernode: The SuperNode, which leads a process group.
        worker: The process that serves its messages, which leads another one; None where the
            SuperNode starts a process for each message, in its own group.

    """

    name: str
    supernode: subprocess.Popen
    worker: subprocess.Popen | None

    @property
    def ended(self) -> bool:
        """Whether one of its processes has ended."""
        return any(each.poll() is not None for each in self.processes)

    @property
    def processes(self) -> list[subprocess.Popen]:
        """Its processes."""
        return [each for each in (self.supernode, self.worker) if each]

    def kill(self) -> None:
        """End it by SIGKILL, with the processes that it started."""
        for each in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()


class Secured(NamedTuple):
    """Files of TLS and of SuperNode authentication.

    Attributes:
        ca: The certificate that signed the SuperLink's; every node has it.
        certificate: The SuperLink's certificate, whose alternative names have 127.0.0.1.
        key: Its private key.
        node_keys: The private key of each node, by the node's name; the public keys lie beside
            them, with the suffix `.pub`.

    """

    ca: Path
    certificate: Path
    key: Path
    node_keys: Mapping[str, Path]


class Loopback:
    """A federation on this machine: processes of Flower that listen on 127.0.0.1 alone.

    As a context manager it ends every process that it started, and those that they started,
    however the context is left; also when this very process is killed, as a small process of its
    own (`keeper`) waits for that. Flower's telemetry, look for updates and installation of
    dependencies are off, so nothing but the loopback interface is used. Needs Linux, which can name
    the processes of a federation.

    Each process writes a log in `folder`. All of them have the value `mark` in the environment
    variable of `keeper`, and `nodes` has the processes of each node by its name.

    Args:
        folder: Folder of logs and of Flower's own files (`flwr`); made where it is missing.
        cwd: Working directory of all processes, those of the apps among them. Default: `folder`.
        warm: Whether a node's messages are served by one Python process, `worker`, instead of a new
            one for each. By default where the installed Flower is one that `worker` knows;
            otherwise a warning names it.
        environment: Further variables of all processes.
        secured: Files for TLS and SuperNode authentication. Default: neither.
        superlink_options: Further options of the SuperLink, such as `--database` with a file that
            outlives it.

    Raises:
        OSError: On another system than Linux.
        ChildProcessError: For a process that ended instead of listening, with the end of its log.

    """

    def __init__(
        self,
        folder: Path,
        *,
        cwd: Path | None = None,
        warm: bool | None = None,
        environment: Mapping[str, str] | None = None,
        secured: Secured | None = None,
        superlink_options: Sequence[str] = (),
    ) -> None:
        if not Path("/proc/self/environ").exists():
            raise OSError(
                message("Loopback", "system", "Linux, whose /proc names processes", sys.platform)
            )
        self.folder = folder.absolute()
        self._cwd = self.folder if cwd is None else cwd.absolute()
        self.warm = is_known() if warm is None else warm
        if warm is None and not self.warm:
            warnings.warn(
                f"Loopback: flwr: expected {KNOWN[0]}*, which the worker knows, got "
                f"{flwr.__version__}; Flower starts a Python process for each message.",
                stacklevel=2,
            )
        self.nodes: dict[str, Node] = {}
        self._secured, self._superlink_options = secured, superlink_options
        self.mark = secrets.token_hex(16)
        self._environment = {
            **os.environ,
            "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
            **(environment or {}),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "FLWR_HOME": str(self.folder / "flwr"),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            keeper.MARK: self.mark,
        }
        self.port = _free_port()
        self.superlink: subprocess.Popen | None = None
        self._keeper: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return f"{HOST}:{self.port}"

    def __enter__(self) -> "Loopback":
        home = self.folder / "flwr"
        home.mkdir(parents=True, exist_ok=True)
        trust = "insecure = true"
        if self._secured:
            trust = f"root-certificates = {json.dumps(str(self._secured.ca))}"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "loop"\n\n[superlink.loop]\naddress = "{self.address}"\n'
            f"{trust}\n"
        )
        self._keeper = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", keeper.__file__, self.mark],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self.start_superlink()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes, and wait until they have ended."""
        if self._keeper and self._keeper.stdin:
            keeper.end(self.mark)
            self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper = None
            for each in [self.superlink, *(p for n in self.nodes.values() for p in n.processes)]:
                if each:
                    each.wait()

    def start_superlink(self) -> None:
        """Start the SuperLink, or start it again on the same port after it ended."""
        files = self._secured
        trust = ["--insecure"]
        if files:
            trust = ["--ssl-ca-certfile", str(files.ca), "--ssl-certfile", str(files.certificate)]
            trust += ["--ssl-keyfile", str(files.key), "--enable-supernode-auth"]
        self.superlink = self.start(
            "superlink",
            *("flower-superlink", *trust, "--host", HOST, "--port", str(self.port)),
            *("--disable-runtime-dependency-installation", *self._superlink_options),
        )
        self.wait_for(self.port, self.superlink, "superlink")

    def register(self, name: str) -> None:
        """Make a node's public key known to the SuperLink, before the node starts.

        Args:
            name: The node's name in `Secured.node_keys`.

        """
        if self._secured:
            public = self._secured.node_keys[name].with_suffix(".pub")
            self._ask("supernode", "register", str(public))

    def start_nodes(
        self, configs: Mapping[str, Mapping[str, str | int]], *, superlink: str | None = None
    ) -> None:
        """Start SuperNodes, all at once, and wait until they listen.

        Args:
            configs: The configuration of each node, by the node's name.
            superlink: Where they find the SuperLink. Default: `address`.

        """
        ports = {name: _free_port() for name in configs}
        for name, config in configs.items():
            place = self.folder / f"node-{name}.toml"  # as a file, as texts may have any character
            place.write_text(
                "".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items())
            )
            address, log = f"{HOST}:{ports[name]}", f"node-{name}"
            isolation = "process" if self.warm else "subprocess"
            supernode = self.start(
                log,
                *("flower-supernode", *self._trust(name), "--superlink", superlink or self.address),
                *("--host", HOST, "--port", str(ports[name]), "--node-config", str(place)),
                *("--isolation", isolation),
            )
            worker = None
            if self.warm:
                words = (sys.executable, "-m", "fedjax_llm.flower.worker", "--node", address)
                worker = self.start(log, *words)
            self.nodes[name] = Node(name, supernode, worker)
        for name, port in ports.items():
            self.wait_for(port, self.nodes[name].supernode, f"node-{name}")

    def run(self, app: Path, *, config: str = "") -> subprocess.Popen:
        """Start a run of an app, as `flwr run` does; the process ends with the run.

        Args:
            app: The app's folder.
            config: Values of the app's configuration, such as `seed=1 name="first"`.

        """
        words = ("flwr", "run", str(app.absolute()), "loop", "--stream")
        return self.start("run", *words, *(("--run-config", config) if config else ()))

    def runs(self) -> list[dict[str, Any]]:
        """What `flwr list` says of all runs, the newest first: status and Flower's own counters."""
        done = self._ask("list", "--format", "json")
        return json.loads(done)["runs"]

    def stop_run(self, number: str) -> None:
        """Stop a run.

        Args:
            number: Its `run-id` in `runs()`.

        """
        self._ask("stop", number)

    def start(self, log: str, *command: str) -> subprocess.Popen:
        """Start a process that belongs to the federation, as the leader of a process group.

        Args:
            log: Name of the log that it appends to, without `.log`.
            *command: The command; a program is looked for beside this Python first.

        """
        with (self.folder / f"{log}.log").open("a") as file:
            return subprocess.Popen(  # noqa: S603 - commands of Flower and our own
                _program(command),
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, port: int, process: subprocess.Popen, log: str) -> None:
        """Wait until something listens on a port.

        Args:
            port: The port.
            process: The process that is to listen there.
            log: The name of its log.

        Raises:
            ChildProcessError: If the process has ended, or two minutes have passed.

        """
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if process.poll() is not None:
                raise ChildProcessError(f"{self.last_words(log)} (status {process.returncode})")
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise ChildProcessError(f"{log}: expected it to listen on port {port} within two minutes.")

    def last_words(self, log: str) -> str:
        """The last line of a log that is not empty, with the log's path."""
        path = self.folder / f"{log}.log"
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        said = [line.strip() for line in lines if line.strip()]
        return f"{path}: {said[-1] if said else 'it said nothing'}"

    def _trust(self, name: str) -> tuple[str, ...]:
        """The options by which a node knows the SuperLink, and the SuperLink the node."""
        if not self._secured:
            return ("--insecure",)
        key = str(self._secured.node_keys[name])
        return "--root-certificates", str(self._secured.ca), "--auth-supernode-private-key", key

    def _ask(self, *words: str) -> str:
        done = subprocess.run(  # noqa: S603 - Flower's own command
            [*_program(("flwr",)), *words, "loop"],
            cwd=self._cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=True,
        )
        return done.stdout


def _program(command: Sequence[str]) -> list[str]:
    """The command, with the path of a program that lies beside this Python."""
    beside = BIN / command[0]
    return [str(beside) if beside.exists() else command[0], *command[1:]]


def _free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.create_server((HOST, 0)) as found:
        return int(found.getsockname()[1])
