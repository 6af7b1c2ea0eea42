"""Serves the messages of a SuperNode in one Python process, which compiles once.

    flower-supernode --isolation process --host 127.0.0.1 --port 9094 ...
    python -m fedjax_llm.flower.worker --node 127.0.0.1:9094

Without it, Flower starts a Python process for each message. It asks the SuperNode for tasks, runs
the client app in this process and sends its reply, with the functions of Flower that the command
`flwr-clientapp` calls. They are not public, so only versions of Flower that it was tried with are
taken; with another one let the SuperNode start its processes (`--isolation subprocess`).
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from logging import ERROR, WARNING
from typing import Any

import httpx
from flwr.app import Context, Error, Message
from flwr.cli.install import install_from_fab
from flwr.clientapp.utils import get_load_client_app_fn
from flwr.common import log
from flwr.common.constant import ErrorCode, SubStatus

from .installed import KNOWN, flwr, is_known

POLL_SECONDS = 0.2
"""Time between two questions for a task."""
MESSAGE_SECONDS = 60.0
"""Longest time between a task and its message, without its parts."""
_TOKEN = "FEDJAX_LLM_TASK"  # noqa: S105 - the name of a variable


class Worker:
    """The worker of one SuperNode.

    An app stays loaded, with what it has compiled, until a message of another app comes. Code that
    is loaded cannot be replaced, so the process then begins anew.

    Args:
        node: Where the SuperNode listens for its processes, `HOST:PORT`.

    Raises:
        RuntimeError: For a version of Flower that it was not tried with.

    """

    def __init__(self, node: str) -> None:
        if not is_known():
            raise RuntimeError(
                f"worker: flwr: expected {KNOWN[0]}*, got {flwr.__version__}; start the SuperNode "
                "with --isolation subprocess, which needs no worker."
            )
        self._node = node
        self._loaded: tuple[str, Callable[[Message, Context], Message]] | None = None

    def serve(self) -> None:
        """Serve tasks until the SuperNode is gone."""
        with _client(self._node) as client:
            tasks = _Tasks(client)
            if token := os.environ.pop(_TOKEN, ""):
                self._serve(token, tasks)
            while True:
                found = tasks.take()
                if not found.token:
                    time.sleep(POLL_SECONDS)
                    continue
                if self._loaded and found.task.fab_hash != self._loaded[0]:
                    os.environ[_TOKEN] = found.token
                    words = [sys.executable, "-m", "fedjax_llm.flower.worker", "--node", self._node]
                    os.execv(sys.executable, words)  # noqa: S606 - this very program
                self._serve(found.token, tasks)

    def _serve(self, token: str, tasks: "_Tasks") -> None:
        """Serve one task; one that was lost on the way is named in the log."""
        from flwr.supercore.heartbeat import HeartbeatSender  # noqa: PLC0415 - only where known
        from flwr.supernode.runtime import run_clientapp as steps  # noqa: PLC0415

        with _client(self._node, token) as client:
            heartbeat = HeartbeatSender(_beat(client))
            heartbeat.start()
            try:
                asked, context, run, fab = steps.pull_task_input(_Patient(client, tasks))
                failure = ""
                try:
                    reply = self._app(run, fab)(asked, context)
                except Exception as error:
                    log(ERROR, "the client app raised an exception", exc_info=error)
                    failure = f"{type(error)}:<'{error}'>"  # as flwr-clientapp words it
                    code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
                    reply = Message(Error(code, failure), reply_to=asked)
                steps.push_message(client, reply, context)
                status = SubStatus.FAILED if failure else SubStatus.COMPLETED
                steps.push_task_output(client, context, status, failure)
            except _GivenUpError as error:  # finished, lest its lease ends while another is served
                log(WARNING, "%s", error)
                steps.push_task_output(client, None, SubStatus.FAILED, str(error))
            except Exception as error:  # the lease ended, or the node did
                log(WARNING, "a message was lost: %r", error)
            finally:
                heartbeat.stop()

    def _app(self, run: Any, fab: Any) -> Callable[[Message, Context], Message]:
        """The client app of a run, loaded once."""
        if self._loaded is None:
            install_from_fab(fab.content, skip_prompt=True)
            load = get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
            self._loaded = fab.hash_str, load(run.fab_id, run.fab_version, fab.hash_str)
        return self._loaded[1]


class _Tasks:
    """The tasks of a SuperNode, one of which may be seen before it is taken.

    Args:
        client: A client of the SuperNode.

    """

    def __init__(self, client: Any) -> None:
        from flwr.proto import runtime_pb2  # noqa: PLC0415 - only where known
        from flwr.supercore.constant import TaskType  # noqa: PLC0415

        self._client, self._lock = client, threading.Lock()
        self._wanted = runtime_pb2.AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        self._none = self._seen = runtime_pb2.AcquireTaskResponse()

    def take(self) -> Any:
        """The next task; one without a token where there is none."""
        with self._lock:
            found, self._seen = self._seen, self._none
            return found if found.token else self._client.AcquireTask(self._wanted)

    def has_next(self) -> bool:
        """Whether there is a next task."""
        with self._lock:
            if not self._seen.token:
                self._seen = self._client.AcquireTask(self._wanted)
            return bool(self._seen.token)


class _GivenUpError(Exception):
    """The SuperNode waits for no reply to this message."""


class _Patient:
    """A client of the SuperNode that waits for a task's message and its parts while they may come.

    A SuperNode makes a task before it has the message and its parts. Where the run is stopped
    meanwhile, they never come, and the SuperNode does not say so; but as it serves one message
    after another, its next task says that it has given up this one.

    Args:
        client: The client, for one task.
        tasks: The tasks that come after it.

    """

    def __init__(self, client: Any, tasks: _Tasks) -> None:
        self.PullTaskInput = client.PullTaskInput
        self.ConfirmMessageReceived = client.ConfirmMessageReceived
        self._client, self._tasks = client, tasks

    def PullMessages(self, request: Any) -> Any:  # noqa: N802 - the name in Flower
        """The message, waited for."""
        until = time.monotonic() + MESSAGE_SECONDS
        while not (got := self._client.PullMessages(request)).messages_list:
            self._check_awaited()
            if time.monotonic() > until:  # the answer that had it was lost; the lease ends
                raise TimeoutError(f"no message within {MESSAGE_SECONDS:g} seconds of its task")
            time.sleep(POLL_SECONDS)
        return got

    def PullObject(self, request: Any) -> Any:  # noqa: N802 - the name in Flower
        """One of its parts, or that it is not there yet: Flower then asks again."""
        got = self._client.PullObject(request)
        if got.object_found and not got.object_available:
            self._check_awaited()
        return got

    def _check_awaited(self) -> None:
        if self._tasks.has_next():
            raise _GivenUpError("the SuperNode has given up a message, as its run was stopped")


def _client(node: str, token: str = "") -> Any:
    """A client of the SuperNode: for its tasks, or with a token for one of them.

    Flower's own one ends the process where the SuperNode refuses a request, such as for a task that
    took too long; this one raises.
    """
    from flwr.supercore import interceptors  # noqa: PLC0415
    from flwr.supercore.retry import RetryInvoker, exponential  # noqa: PLC0415
    from flwr.supercore.runtime import RuntimeHttpClient  # noqa: PLC0415

    name = "flwr-clientapp" if token else "SuperExec"
    used: list[Any] = [interceptors.RuntimeVersionHttpInterceptor(component_name=name)]
    if token:
        used.append(interceptors.RuntimeTokenHttpInterceptor(token))
    return RuntimeHttpClient.from_server_address(
        server_address=node,
        insecure=True,
        root_certificates=None,
        interceptors=used,
        retry_invoker=RetryInvoker(
            lambda: exponential(max_delay=1), httpx.TransportError, max_tries=None, max_time=60
        ),
    )


def _beat(client: Any) -> Callable[[], bool]:
    """What holds the lease of a task, which ends after a minute without."""
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest  # noqa: PLC0415

    def beat() -> bool:
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPStatusError:  # the task was lost, as its reply will say
            return True
        except httpx.TransportError:
            return False
        return True

    return beat


def main() -> None:
    """Serve the messages of a SuperNode, as the arguments of the process say."""
    parser = argparse.ArgumentParser(prog="python -m fedjax_llm.flower.worker")
    parser.add_argument("--node", required=True, help="where the SuperNode listens: HOST:PORT")
    Worker(parser.parse_args().node).serve()


if __name__ == "__main__":
    main()
