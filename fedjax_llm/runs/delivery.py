"""What `train` delivers: the trained model or adapter, of the server and of each client."""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from .. import models
from ..adapters import merge_adapter
from ..adapters.merging import without_adapter
from ..adapters.peft_export import adapter_files
from ..adapters.peft_files import write_adapter
from ..model_files import ByteTokenizer, minilm, write_safetensors
from ..models import Classifier, Decoder
from .prepare import Run
from .quality import own_params
from .results import write_object
from .rows import Trained

SERVER = {"peft": "adapter", "transformers": "model", "safetensors": "parameters"}
"""Folder of the server's parameters, by format."""
CLIENTS = {"peft": "adapters", "transformers": "models", "safetensors": "clients"}
"""Folder of the clients' own parameters, by format."""
SHARED = "shared"
"""Folder of the server's parameters where it trained some of them and clients the others."""
BASE = "base"
"""Folder of the frozen base of an adapter."""
FOLDERS = (*SERVER.values(), *CLIENTS.values(), SHARED, BASE)
FOR = {
    "peft": "for peft",
    "transformers": "for transformers",
    "safetensors": "the trained parameters alone, by name in parameters.safetensors",
}


class Writer(NamedTuple):
    """A file format that holds a run's parameters.

    Attributes:
        format: "peft", "transformers" or "safetensors".
        write: `(folder, params) -> None`: write trainable parameters, or the model they make.

    """

    format: str
    write: Callable[[Path, PyTree], None]


def deliver(run: Run, trained: Trained, out: Path, *, save_base: bool = False) -> dict[str, str]:
    """Write what a run trained: the server's parameters, and each client's own where it has some.

    - `adapter/` opens in `peft`; `model/` is the merged model, which opens in `transformers`. The
      merged model is written where `peft` has no such adapter, and where the method changed the
      frozen base. `parameters/` has the trained parameters alone, where neither format holds them.
    - With personal models, `adapters/<client>/`, `models/<client>/` or `clients/<client>/` is a
      client's own model in the same formats, for each client that was in a round; `clients.json`
      there gives each client's folder. Where less than half of a merged model is trained, the
      clients' trained parameters are written alone.
    - `base/` is the frozen base of an adapter, which `adapter_config.json` then names. It is
      written if asked for, and where no pretrained model is the base.
    - `shared/` replaces the server's folder where the server trained only some parameters. Where a
      method with personal models trains none at the server, there is neither.

    Args:
        run: The run.
        trained: Its result.
        out: The run's folder.
        save_base: Whether to write the base of an adapter.

    Returns:
        What each folder holds, in words, by the folder's path in `out`.

    """
    for name in FOLDERS:  # of this run, stopped before its summary
        if (out / name).exists():
            shutil.rmtree(out / name)
    start = run.config.model
    save_base |= start is None
    base = (out / BASE).absolute() if save_base or start is None else _base_to_open(start)
    writer = _writer(run, trained, base)
    delivered = _server(run, trained, out, writer)
    if trained.clients is not None:
        delivered |= _clients(run, trained, out, writer)
    if writer.format == "peft":
        if save_base:
            _save(run, out / BASE, without_adapter(run.task.model(trained.params, trained.frozen)))
            delivered[f"{BASE}/"] = "the frozen base that the adapters name, for transformers"
        elif base is None:
            remedy = "; give peft the base yourself, or write it with --save-base"
            delivered = {place: what + remedy for place, what in delivered.items()}
    return delivered


def check_save_base(run: Run) -> None:
    """Raise `ValueError` where `peft` has no format for a run's adapter."""
    if _writer(run, Trained(run.task.params, run.task.frozen), None).format != "peft":
        raise ValueError(
            "save_base: expected an adapter that peft has, such as lora(rank=8), got "
            f"{run.config.adapter}, whose result has no separate base."
        )


def _server(run: Run, trained: Trained, out: Path, writer: Writer) -> dict[str, str]:
    """Write the server's parameters, unless it trained none of the clients' own models."""
    kept, changed = _kept_and_changed(run.task.params, trained.params)
    what = f"what the server trained, {FOR[writer.format]}"
    if trained.clients is None:
        place = SERVER[writer.format]
        what += "" if changed else "; no round changed it"
    elif not changed:
        return {}
    elif kept:
        place = SHARED
        what += (
            f"; {_listed(kept)} as before training, so it is a start for new clients and not a "
            "trained model"
        )
    else:
        place = SERVER[writer.format]
    writer.write(out / place, trained.params)
    return {f"{place}/": what}


def _clients(run: Run, trained: Trained, out: Path, writer: Writer) -> dict[str, str]:
    """Write the model of each client that was in a round."""
    assert trained.clients is not None  # noqa: S101
    if writer.format == "transformers" and not _mostly_trained(run):
        writer = _parameters_alone()
    params_of = own_params(run, trained.params, trained.clients)
    names = [run.split.train.names[client] for client in trained.clients.clients]
    if not names:
        return {}
    place = CLIENTS[writer.format]
    folders = dict(zip(names, folder_names(names), strict=True))
    for name, folder in folders.items():
        writer.write(out / place / folder, params_of(name))
    write_object(out / place / "clients.json", folders)
    what = (
        f"a folder for each of the {len(folders)} clients that trained a model of their own, "
        f"{FOR[writer.format]}; clients.json has each client's folder"
    )
    return {f"{place}/": what}


def _writer(run: Run, trained: Trained, base: str | Path | None) -> Writer:
    """The first format that holds the run's parameters."""
    task, frozen = run.task, trained.frozen
    model = task.model(trained.params, frozen)

    def adapter(folder: Path, params: PyTree) -> None:
        name = None if base is None else str(base)
        write_adapter(folder, *adapter_files(task.model(params, frozen), base_model=name))

    def merged(folder: Path, params: PyTree) -> None:
        _save(run, folder, task.model(params, frozen))

    if frozen is task.frozen and _succeeds(adapter_files, model):
        return Writer("peft", adapter)
    first = isinstance(model, Classifier) and model.pooling == "first"
    if (first or isinstance(model, Decoder)) and _succeeds(merge_adapter, model):
        return Writer("transformers", merged)
    return _parameters_alone()


def _base_to_open(model: str) -> str | Path | None:
    """What `peft` opens as the base: a folder, or a name on the hub; None for a `.gguf` file."""
    if Path(model).is_dir():
        return Path(model).absolute()
    if Path(model).exists() or model == "smollm2":
        return None
    return minilm() if model == "minilm" else model


def _save(run: Run, folder: Path, model: Any) -> None:
    """Write a model with its adapter merged, for `transformers`."""
    learnt, plain = run.workload, merge_adapter(model)
    labels = len(plain["classifier"]["bias"]) if isinstance(model, Classifier) else None
    models.save(
        folder,
        learnt.config,
        plain,
        labels=labels,
        label_names=learnt.label_names,
        tokenizer=learnt.tokenizer or ByteTokenizer(),
    )


def _parameters_alone() -> Writer:
    def write(folder: Path, params: PyTree) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "parameters.safetensors", _by_path(params))

    return Writer("safetensors", write)


def _succeeds(make: Callable, model: object) -> bool:
    try:
        make(model)
    except (TypeError, ValueError):  # the model of a task of one's own may be of another type
        return False
    return True


def _mostly_trained(run: Run) -> bool:
    trained, frozen = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (run.task.params, run.task.frozen)
    )
    return trained >= frozen


def _kept_and_changed(before: PyTree, after: PyTree) -> tuple[list[str], list[str]]:
    """Paths of the parameters whose values training left alone, and of those it changed."""
    old, new = _by_path(before), _by_path(after)
    kept = [path for path in old if np.array_equal(old[path], new[path])]
    return kept, [path for path in old if path not in kept]


def _listed(paths: list[str]) -> str:
    rest = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{', '.join(paths[:3])}{rest} {'are' if len(paths) > 1 else 'is'}"


def _by_path(params: PyTree) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def folder_names(clients: Iterable[str]) -> list[str]:
    """A folder name for each client, different on file systems without case too.

    Characters that some file system refuses are percent-encoded, and long names are cut.

    Args:
        clients: The clients' names.

    Returns:
        The folder names, in the same order.

    Example:
        >>> from fedjax_llm.runs.delivery import folder_names
        >>> folder_names(["hamlet/HORATIO", "Ann", "ann", ".."])
        ['hamlet%2FHORATIO', 'Ann', 'ann~2', '%2E%2E']

    """
    found: list[str] = []
    taken = {"clients.json"}
    for client in clients:
        text = client.encode(errors="ignore").decode()  # without lone surrogates
        safe = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^\.+|[. ]+$|^$', _encoded, text)
        stem = safe.encode()[:120].decode(errors="ignore")
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}~{number}", number + 1
        taken.add(name.casefold())
        found.append(name)
    return found


def _encoded(match: re.Match) -> str:
    return "".join(f"%{ord(character):02X}" for character in match[0]) or "%"
