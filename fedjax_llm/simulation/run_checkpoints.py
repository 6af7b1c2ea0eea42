"""Where a run stands, kept on disk while it goes on, and read again after whatever stopped it."""

import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..algorithm import ClientState, ServerState
from .digest import digest
from .loop.client_store import StoreRows
from .loop.round import Snapshot

_DRAFTS = "*.orbax-checkpoint-tmp"


class Restored(NamedTuple):
    """What a checkpoint gave back."""

    snapshot: Snapshot
    notes: dict[str, Any]


class RunCheckpoints:
    """The last few checkpoints of one run, written by Orbax in the background.

    A checkpoint is whole or is not there: it is written under another name and renamed. It holds
    the server's state with that of its optimizer and codecs, every client's that was ever changed,
    the round, simulated time, and notes in JSON; keys, faults and the order of data follow from
    seed and round. With it lies a SHA-256 over every array, as Orbax does not notice bits that
    turned.
    Costs a copy of all that in memory and a full write each time. One process at a time.
    """

    def __init__(self, folder: Path, *, keep: int = 3) -> None:
        """Raises `ValueError` unless `keep` is at least 1, `OSError` where the folder cannot be."""
        import orbax.checkpoint as ocp  # noqa: PLC0415 (takes a second)

        if keep < 1:
            raise ValueError(f"Checkpoints: keep must be at least 1, got {keep!r}.")
        self._ocp = ocp
        self._folder = folder.absolute()  # Orbax fails late and unseen at a relative one
        self._keep = keep
        self._writing: int | None = None
        self._folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def save(self, snapshot: Snapshot, notes: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, once the one before it is written.

        Raises `OSError` where that one could not be, as `wait` does.
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
        except Exception as error:  # of whatever type Orbax lets through
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Return when what was saved is on disk.

        Raises `OSError` where it could not be written, such as on a full disk: saying of which
        round, why, and which checkpoint is the last good one.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # of whatever type Orbax lets through
            raise self._not_written(error) from error
        self._writing = None

    def restore(self, server: ServerState, client: ClientState) -> Restored | None:
        """The newest checkpoint that is whole; None where there is none.

        `server` and `client` are a state that the run's algorithm starts with, for structure. A
        checkpoint that is cut off or whose bits turned is named in a warning, put aside under the
        name `damaged-ROUND`, and the one before it is taken.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._read(step, server, client)
            except Exception as error:  # of whatever type Orbax lets through
                warnings.warn(
                    f"{self._folder / str(step)}: expected a whole checkpoint, got one that "
                    f"cannot be read ({_reason(error)}); going back to the one before.",
                    stacklevel=2,
                )
                self._put_aside(step)
        return None

    def close(self) -> None:
        """Wait as `wait` does, and end the threads."""
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
            if error is None:  # else there is something to say already
                raise

    def _open(self) -> None:
        for draft in self._folder.glob(_DRAFTS):
            shutil.rmtree(draft)
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
        wanted = _arrays(like)
        found = self._manager.restore(
            step, args=args.Composite(state=args.StandardRestore(wanted))
        )["state"]
        if (got := digest(found)) != about["sha256"]:
            raise ValueError(f"expected SHA-256 {about['sha256'][:16]}…, got {got[:16]}…")
        return Restored(_progress(like, found), about["notes"])

    def _put_aside(self, step: int) -> None:
        aside = self._folder / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self._folder / str(step)).rename(aside)
        self._manager.reload()

    def _not_written(self, error: Exception) -> OSError:
        for draft in self._folder.glob(_DRAFTS):
            shutil.rmtree(draft, ignore_errors=True)
        rounds = sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())
        last = f"the last good one is of round {rounds[-1]}" if rounds else "there is none before"
        return OSError(
            f"{self._folder}: the checkpoint of round {self._writing} could not be written "
            f"({_reason(error)}); {last}."
        )


def _arrays(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Every array by number, on the host; those without entries, which Orbax refuses, left out."""
    leaves = [_host(leaf) for leaf in _leaves(snapshot)]
    return {str(i): leaf for i, leaf in enumerate(leaves) if leaf.size}


def _progress(like: Snapshot, arrays: Mapping[str, np.ndarray]) -> Snapshot:
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
    """A copy of a leaf that no device and no later round writes to."""
    return np.array(jr.key_data(leaf) if _is_key(leaf) else leaf)


def _as(like: Any, found: np.ndarray) -> Any:
    return jr.wrap_key_data(jnp.asarray(found), impl=jr.key_impl(like)) if _is_key(like) else found


def _reason(error: Exception) -> str:
    """The end of what an error says first; in words, where that is a number of the system's."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    said = line if len(line) <= 200 else f"…{line[-200:]}"
    code = re.search(r"os_error_code='(\d+)'", said)  # its words may be far before it
    if code and os.strerror(int(code[1])) not in said:
        return f"{os.strerror(int(code[1]))}: {said}"
    return said
