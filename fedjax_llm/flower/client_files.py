"""The lasting state of one client, on its own disk."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression import wire
from jaxtyping import PyTree

from ..algorithm import ClientState, Uncounted

_HEX = 64
"""Length of a SHA-256 in hexadecimal digits."""


class Kept(NamedTuple):
    """What a client's file holds.

    A message counts or not, and the client learns which when it is next sent the model. Until then
    it keeps both states: that before its last training, and that after it.

    Attributes:
        counted: The last round whose message counted; 0 for none.
        state: The state after that round, and after later rounds that did not count.
        trained: The last round in which the client trained; 0 for none.
        after: The state after that training.

    """

    counted: int
    state: ClientState
    trained: int
    after: ClientState


class ClientFile:
    """The state of one client in one run, in one file with its digest.

    The file is written whole under another name and then renamed, so that a process that is killed
    leaves the old state or the new one. It is `FOLDER/run-RUN/client-CLIENT/state`: a SHA-256 in
    hexadecimal digits, a line of JSON and two messages of `wire.dumps`. Names are quoted as in a
    URL, so that none leads out of the folder.

    Args:
        folder: The client's folder; it is made where it is missing.
        run: The name of the run.
        client: The name of the client.
        origin: What tells the run from another one of the same name, as the server sends it.
        first: The state that a client starts with.

    """

    def __init__(
        self, folder: Path, run: str, client: str, origin: str, first: ClientState
    ) -> None:
        self._names, self._origin = {"run": run, "client": client}, origin
        self._first = first
        self._arrays = _as_arrays(first)
        self.path = client_folder(folder, run, client) / "state"

    def begin(self, number: int, counted: int, uncounted: Uncounted | None) -> Kept:
        """The state to train from in a round, given which of the client's messages counted.

        Args:
            number: The number of the round.
            counted: The last round in which the server counted a message of this client; 0 for
                none.
            uncounted: `FederatedAlgorithm.uncounted`.

        Returns:
            What to keep; train from its `state`. Where the file is of a training in this round or a
            later one, whose result the server lost before it wrote its checkpoint, that training is
            undone.

        Raises:
            ValueError: For a file that is damaged, of another run, client or algorithm, or that
                does not hold the state which the server counted.

        """
        kept = self.read()
        if kept.trained and kept.trained == counted:
            return Kept(counted, kept.after, 0, kept.after)
        if kept.counted != counted:
            raise ValueError(
                f"{self.path}: expected the state after round {counted}, which the server counted "
                f"last, got that of round {kept.counted}; start the run under another name, or "
                "bring back the client's file."
            )
        if not 0 < kept.trained < number:
            return kept._replace(trained=0, after=kept.state)
        state = uncounted(kept.state, kept.after) if uncounted else kept.state
        return Kept(counted, state, 0, state)

    def read(self) -> Kept:
        """Read the file; a client without one has the first state.

        Raises:
            ValueError: For a file that is damaged, or of another run, client or algorithm.

        """
        if not self.path.exists():
            return Kept(0, self._first, 0, self._first)
        data = self.path.read_bytes()
        digest, body = data[:_HEX].decode("ascii", "replace"), data[_HEX:]
        if hashlib.sha256(body).hexdigest() != digest:
            raise ValueError(f"{self.path}: expected the digest {digest!r}, got another; {_AFRESH}")
        line, _, states = body.partition(b"\n")
        about = json.loads(line)
        names = {name: about[name] for name in self._names}
        if names != self._names:
            raise ValueError(f"{self.path}: expected {self._names}, got {names}; {_AFRESH}")
        if (origin := about.get("origin")) != self._origin:
            raise ValueError(
                f"{self.path}: expected a state of the run with origin {self._origin}, got one of "
                f"another run of the same name, with origin {origin}; bring back the client's "
                "file, or start the run under another name."
            )
        length = about["length"]
        try:
            state, after = (self._load(part) for part in (states[:length], states[length:]))
        except wire.WireError as error:
            raise ValueError(
                f"{self.path}: expected a state of this algorithm, got another ({error}); {_AFRESH}"
            ) from None
        return Kept(about["counted"], state, about["trained"], after)

    def write(self, kept: Kept) -> None:
        """Write the file anew.

        Args:
            kept: What to write.

        """
        state, after = (wire.dumps(_as_arrays(each)) for each in (kept.state, kept.after))
        about = {
            **self._names,
            "origin": self._origin,
            "counted": kept.counted,
            "trained": kept.trained,
            "length": len(state),
        }
        body = json.dumps(about).encode() + b"\n" + state + after
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"state.{os.getpid()}")
        with draft.open("wb") as file:
            file.write(hashlib.sha256(body).hexdigest().encode() + body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)

    def _load(self, data: bytes) -> ClientState:
        arrays = wire.loads(data, self._arrays)
        return jax.tree.map(_as, self._first, arrays)


_AFRESH = "remove it to start this client afresh under another run name."


def client_folder(folder: Path, run: str, client: str) -> Path:
    """Where a client keeps what it has of a run.

    Args:
        folder: The client's folder.
        run: The name of the run.
        client: The name of the client.

    """
    return folder / f"run-{_quoted(run)}" / f"client-{_quoted(client)}"


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _as_arrays(tree: PyTree) -> PyTree:
    """The leaves as arrays that a message can hold; keys as their data."""
    return jax.tree.map(lambda leaf: np.asarray(jr.key_data(leaf) if _is_key(leaf) else leaf), tree)


def _as(like: Any, array: np.ndarray) -> Any:
    """The array, as a key if `like` is one."""
    if _is_key(like):
        return jr.wrap_key_data(jnp.asarray(array), impl=jr.key_impl(like))
    return array


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(jax.dtypes.result_type(leaf), jax.dtypes.prng_key)
