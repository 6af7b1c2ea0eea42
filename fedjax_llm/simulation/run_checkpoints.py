"""Checkpoints of a run on disk, from which a stopped run resumes."""

import os
import re
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_kind

from ..algorithm import ClientState, ServerState
from ..checks import check_count
from .digest import digest
from .loop.client_store import StoreRows
from .loop.round import Snapshot

_DRAFTS = "*.orbax-checkpoint-tmp"


class Restored(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        snapshot: The snapshot to resume from.
        notes: The notes that were saved with it.

    """

    snapshot: Snapshot
    notes: dict[str, Any]


class RunCheckpoints:
    """The last few checkpoints of one run, written by Orbax in the background.

    A checkpoint is whole or absent: it is written under another name and then renamed. It holds
    the server state, with the states of its optimizer and codecs, the client state of every client
    that ever changed it, the round, the simulated time, and notes in JSON. Keys, faults and the
    order of data follow from the seed and the round. A SHA-256 over every array is stored beside
    them, because Orbax does not detect flipped bits.

    Cost: a copy of the whole content in memory and a full write for each checkpoint. Only one
    process may use a folder at a time. As a context manager it closes itself.

    Args:
        folder: Folder of the checkpoints; made if it does not exist.
        keep: Number of checkpoints to keep, at least 1; 3 by default.

    Raises:
        TypeError: For a folder that is no `pathlib.Path`.
        ValueError: For a `keep` below 1.
        OSError: If the folder cannot be made.

    Example:
        >>> import pathlib, tempfile
        >>> import jax.numpy as jnp
        >>> from fedjax_llm.simulation import ClientStore, Snapshot
        >>> from fedjax_llm.simulation.run_checkpoints import RunCheckpoints
        >>> state, client_state = {"params": jnp.arange(3.0)}, jnp.zeros(2)
        >>> snapshot = Snapshot(5, state, ClientStore(client_state).rows())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with RunCheckpoints(pathlib.Path(folder)) as checkpoints:
        ...         checkpoints.save(snapshot, {"note": "halfway"})
        ...         checkpoints.wait()
        ...         restored = checkpoints.restore(state, client_state)
        >>> restored.snapshot.round, restored.snapshot.state["params"].tolist(), restored.notes
        (5, [0.0, 1.0, 2.0], {'note': 'halfway'})

    """

    def __init__(self, folder: Path, *, keep: int = 3) -> None:
        check_kind(folder, Path, who="RunCheckpoints", name="folder", expected="a pathlib.Path")
        check_count(keep, who="RunCheckpoints", name="keep", at_least=1)
        import orbax.checkpoint as ocp  # noqa: PLC0415 (takes a second)

        self._ocp = ocp
        self._folder = folder.absolute()  # with a relative one, Orbax fails late and silently
        self._keep = keep
        self._writing: int | None = None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def save(self, snapshot: Snapshot, notes: Mapping[str, Any]) -> None:
        """Start writing a checkpoint, after waiting for the one before it.

        Args:
            snapshot: The snapshot to save.
            notes: Whatever else to save: values that JSON can hold, by name.

        Raises:
            OSError: If the checkpoint before it could not be written; see `wait`.

        """
        self.wait()
        arrays = _arrays(snapshot)
        about = {
            "round": snapshot.round,
            "simulated_seconds": snapshot.seconds,
            "touched": len(snapshot.store.clients),
            "sha256": digest(arrays),
            "notes": dict(notes),
        }
        args = self._ocp.args
        self._writing = snapshot.round
        try:
            self._manager.save(
                snapshot.round,
                args=args.Composite(state=args.StandardSave(arrays), about=args.JsonSave(about)),
            )
        except Exception as error:  # Orbax documents no types
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            OSError: If it could not be written, such as on a full disk. The message names its
                round, the reason, and the last good checkpoint.

        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax documents no types
            raise self._not_written(error) from error
        self._writing = None

    def restore(self, server: ServerState, client: ClientState) -> Restored | None:
        """Read the newest whole checkpoint.

        A damaged checkpoint (truncated, or with flipped bits) is named in a warning and renamed to
        `damaged-ROUND`, and the one before it is read.

        Args:
            server: A server state that the run's algorithm starts with, for its structure.
            client: A client state that the run's algorithm starts with, for its structure.

        Returns:
            The checkpoint; None if there is no whole one.

        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._read(step, server, client)
            except Exception as error:  # Orbax documents no types
                warnings.warn(
                    f"{self._folder / str(step)}: expected a whole checkpoint, got one that "
                    f"cannot be read ({_reason(error)}); using the one before it.",
                    stacklevel=2,
                )
                self._put_aside(step)
        return None

    def close(self) -> None:
        """Wait for the last checkpoint, as `wait` does, and end the threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # otherwise that error is raised
                raise

    def _open(self) -> None:
        self._remove_drafts()
        self._manager = self._ocp.CheckpointManager(
            self._folder,
            options=self._ocp.CheckpointManagerOptions(
                max_to_keep=self._keep, enable_async_checkpointing=True
            ),
        )

    def _read(self, step: int, server: ServerState, client: ClientState) -> Restored:
        args = self._ocp.args
        about = self._manager.restore(step, args=args.Composite(about=args.JsonRestore()))["about"]
        touched = int(about["touched"])
        like = Snapshot(
            step,
            server,
            StoreRows(
                np.zeros(touched, np.int64),
                jax.tree.map(
                    lambda leaf: np.empty((touched, *np.shape(leaf)), np.asarray(leaf).dtype),
                    client,
                ),
            ),
            about["simulated_seconds"],
        )
        restore_args = args.Composite(state=args.StandardRestore(_arrays(like)))
        arrays = self._manager.restore(step, args=restore_args)["state"]
        if (got := digest(arrays)) != about["sha256"]:
            raise ValueError(f"expected SHA-256 {about['sha256'][:16]}…, got {got[:16]}…")
        return Restored(_snapshot(like, arrays), about["notes"])

    def _put_aside(self, step: int) -> None:
        aside = self._folder / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self._folder / str(step)).rename(aside)
        self._manager.reload()

    def _remove_drafts(self) -> None:
        """Remove half-written checkpoints, as far as possible.

        After a failed write, threads of TensorStore may still write other arrays of that draft. So
        this waits for them up to a second. What is left is never read; the next opening removes it.
        """
        for _ in range(20):
            drafts = list(self._folder.glob(_DRAFTS))
            for draft in drafts:
                shutil.rmtree(draft, ignore_errors=True)
            if not drafts:
                return
            time.sleep(0.05)

    def _not_written(self, error: Exception) -> OSError:
        self._remove_drafts()
        rounds = sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())
        last = (
            f"the last good one is of round {rounds[-1]}" if rounds else "there is no earlier one"
        )
        return OSError(
            f"{self._folder}: the checkpoint of round {self._writing} could not be written "
            f"({_reason(error)}); {last}."
        )


def _arrays(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """The arrays of a snapshot on the host, numbered, without empty ones, which Orbax refuses."""
    leaves = [_host(leaf) for leaf in _leaves(snapshot)]
    return {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}


def _snapshot(like: Snapshot, arrays: Mapping[str, np.ndarray]) -> Snapshot:
    """The inverse of `_arrays`."""
    leaves = [
        _as(leaf, arrays[str(i)] if str(i) in arrays else _host(leaf))
        for i, leaf in enumerate(_leaves(like))
    ]
    state, store = jax.tree.unflatten(jax.tree.structure((like.state, like.store)), leaves)
    return Snapshot(like.round, state, store, like.seconds)


def _leaves(snapshot: Snapshot) -> Sequence[Any]:
    return jax.tree.leaves((snapshot.state, snapshot.store))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(jax.dtypes.result_type(leaf), jax.dtypes.prng_key)


def _host(leaf: Any) -> np.ndarray:
    """A copy of a leaf on the host, which no later round writes to."""
    return np.array(jr.key_data(leaf) if _is_key(leaf) else leaf)


def _as(like: Any, array: np.ndarray) -> Any:
    """The array, as a key if `like` is one."""
    return jr.wrap_key_data(jnp.asarray(array), impl=jr.key_impl(like)) if _is_key(like) else array


def _reason(error: Exception) -> str:
    """The end of an error's first line, with the words for an OS error code.

    TensorStore writes the reason at the end, or before a specification of thousands of characters.
    """
    line = (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec=")[0]
    text = line if len(line) <= 200 else f"…{line[-200:]}"
    code = re.search(r"os_error_code='(\d+)'", text)  # the words for it may have been cut off
    if code and os.strerror(int(code[1])) not in text:
        return f"{os.strerror(int(code[1]))}: {text}"
    return text
