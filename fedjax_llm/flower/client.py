"""One client of a federation over Flower: a fresh process for each message is enough."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from fedjax_compression.checks import check_kind
from fedjax_compression.errors import message
from flwr.app import ConfigRecord, Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from jaxtyping import PyTree

from .._version import __version__
from ..algorithm import FederatedAlgorithm
from ..client_training import Frozen, Params
from ..data import Batching, ClientData, cohort_batches
from ..secure_aggregation.client import STEPS
from ..simulation.keys import DATA
from ..simulation.loop.arguments import check_algorithm, check_batching, check_corpus
from .client_files import ClientFile, Kept
from .envelope import bytes_record, read_bytes, read_values
from .programs import client_program
from .secure_sums import SecureClients, SecureSums, check_secure

ASKED = {
    **{"version": str, "run": str, "origin": str, "client": str},
    **{"round": int, "counted": int, "key": bytes},
}
"""The values that a server sends with the model, and their types."""


def client_app(
    algorithm: FederatedAlgorithm,
    params: Params,
    frozen: Frozen,
    corpus: ClientData | Callable[[UserConfig], ClientData],
    batching: Batching,
    *,
    folder: Path,
    compilation_cache: bool = True,
    secure: SecureSums | None = None,
) -> ClientApp:
    """Make the Flower app that trains one client, with the arguments that `simulate` takes.

    Which client it is says the node's configuration, `--node-config 'client="ann"'`. A client
    computes the numbers that it has in `simulate` with the client axis `chunked(1)` and the same
    seed; the server sends it the key of its own round and nothing else of the seed. Messages are
    those of `wire.dumps`, in an array of bytes.

    Its lasting state is in a file with a digest in `folder`, under the names of the run and of the
    client, and moves with the messages that the server counted. Flower's node ids and contexts do
    not outlive a run, and nothing here depends on them. So a process may end after each message, as
    Flower has it. Compiled programs are kept in `folder` too: each process would compile them anew.

    What a client reports of its training stays with it: a line for each round in `rounds.jsonl`
    beside its state.

    Args:
        algorithm: The algorithm, the same one as the server's.
        params: Initial trainable parameters, for the client's first state and for structures.
        frozen: Frozen parameters; `()` if there are none.
        corpus: Data that contains this client, or a function `(node_config) -> corpus` that reads
            it, for a node that holds its own data alone. With `Batching(epochs=...)` the number of
            steps is that of the client with the most rows in `corpus`.
        batching: How a client's data is cut into local steps.
        folder: Folder on the client's disk.
        compilation_cache: Whether to keep JAX's compiled programs in `folder`, which sets JAX's
            options of the process when the first model arrives. True by default.
        secure: Parameters of secure sums, as for `federate`; the same at the server. By default the
            client sends its update for the server to read.

    Returns:
        The app, with the handlers `train` and `query.join`, and with secure sums those of the later
        steps of the protocol, `train.share`, `train.mask` and `train.unmask`.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For an algorithm with `sums` without `secure`, and the reverse.

    Example:
        >>> from pathlib import Path
        >>> import jax, jax.numpy as jnp, optax
        >>> from fedjax_llm import fed_avg
        >>> from fedjax_llm.data import Batching, byte_corpus
        >>> from fedjax_llm.flower import client_app
        >>> def loss(logits, frozen, batch):  # a unigram model of bytes
        ...     return -jax.nn.log_softmax(logits)[batch.targets].mean(where=batch.mask)
        >>> algorithm = fed_avg(loss, jnp.zeros(256), client_optimizer=optax.sgd(1.0))
        >>> corpus = byte_corpus({"ann": "to be or not to be, that is the question"})
        >>> batching = Batching(seq=8, batch=1, steps=2)
        >>> app = client_app(
        ...     algorithm, jnp.zeros(256), (), corpus, batching, folder=Path("ann-files")
        ... )

    """
    who = "client_app"
    check_algorithm(algorithm, who=who)
    if not callable(corpus):
        check_corpus(corpus, who=who)
    check_batching(batching, who=who)
    check_kind(folder, Path, who=who, name="folder", expected="a pathlib.Path")
    check_kind(compilation_cache, bool, who=who, name="compilation_cache", expected="True or False")
    check_secure(algorithm, secure, who=who)
    sums = algorithm.sums
    program, app = client_program(algorithm), ClientApp()
    secure_clients = SecureClients(sums, secure) if sums and secure else None

    down_like = None

    def this_client(context: Context) -> tuple[str, int, ClientData]:
        data = corpus(context.node_config) if callable(corpus) else corpus
        check_corpus(data, who=who)
        return *_this_client(context, data), data

    @app.query("join")
    def join(asked: Message, context: Context) -> Message:
        name, _, _ = this_client(context)
        about = ConfigRecord({"client": name, "version": __version__})
        return Message(RecordDict({"join": about}), reply_to=asked)

    @app.train()
    def train(asked: Message, context: Context) -> Message:
        if compilation_cache:
            _keep_programs(folder / "compiled")
        name, index, data = this_client(context)
        values = read_values(asked.content, "round", ASKED)
        for key, own in (("version", __version__), ("client", name)):
            if values[key] != own:
                raise ValueError(message("round", key, repr(own), values[key]))
        client_key = jr.wrap_key_data(jnp.asarray(np.frombuffer(values["key"], "<u4")))
        data_key = np.asarray(jr.key_data(jr.fold_in(client_key, DATA)))
        batches = _batches(data, batching, index, data_key)
        nonlocal down_like
        if down_like is None:  # a process may serve several messages
            down_like = _downlink(algorithm, params)
        downlink = wire.loads(read_bytes(asked.content, "downlink", down_like), down_like)
        first = algorithm.client_init(params)
        file = ClientFile(folder, values["run"], name, values["origin"], first)
        number = values["round"]
        kept = file.begin(number, values["counted"], algorithm.uncounted)
        uplink, after, info = program(client_key, frozen, downlink, kept.state, batches)
        file.write(Kept(kept.counted, kept.state, number, jax.device_get(after)))
        _note(file.path.with_name("rounds.jsonl"), number, info)
        targets = int(data.targets()[index])
        if secure_clients:
            if not targets:
                raise ValueError(
                    message("round", "targets", "1 or more of a client that counts", 0)
                )
            content = secure_clients.begin(name, number, asked.content, uplink)
            return Message(content, reply_to=asked)
        answer = ConfigRecord({"client": name, "round": number, "targets": targets})
        content = RecordDict(
            {
                "uplink": bytes_record(wire.dumps(uplink), uplink),
                "round": answer,
            }
        )
        return Message(content, reply_to=asked)

    def later(step: str, asked: Message, context: Context) -> Message:
        assert secure_clients  # noqa: S101 - as only then it is registered
        name, _, _ = this_client(context)
        return Message(secure_clients.answer(step, name, asked.content), reply_to=asked)

    for step in STEPS[1:] if secure_clients else ():
        app.train(step)(functools.partial(later, step))

    return app


def _this_client(context: Context, corpus: ClientData) -> tuple[str, int]:
    """The name of this node's client and its index in the data."""
    name = context.node_config.get("client")
    if not isinstance(name, str) or name not in corpus.names:
        shown = ", ".join(corpus.names[:5])
        raise ValueError(
            message(
                "client_app",
                "node_config['client']",
                f"a client of the data, such as {shown}",
                name,
                "start the node with --node-config 'client=\"...\"'",
            )
        )
    return name, corpus.names.index(name)


def _downlink(algorithm: FederatedAlgorithm, params: Params) -> PyTree:
    """The structure of the server's message."""

    def first(params: Params) -> PyTree:
        key = jr.key(0)
        return algorithm.broadcast(key, algorithm.init(key, params))[0]

    return jax.eval_shape(first, params)


def _batches(corpus: ClientData, batching: Batching, index: int, key: np.ndarray) -> PyTree:
    """One client's batches of a round."""
    return jax.tree.map(lambda leaf: leaf[0], cohort_batches(corpus, batching, [index], key[None]))


def _keep_programs(folder: Path) -> None:
    """Let JAX keep every compiled program on disk."""
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _note(path: Path, number: int, info: PyTree) -> None:
    """Append a line about a round to the client's own log."""
    values: dict[str, Any] = {k: np.asarray(v).tolist() for k, v in info._asdict().items()}
    with path.open("a") as file:
        file.write(json.dumps({"round": number, **values}) + "\n")
