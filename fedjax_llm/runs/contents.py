"""What a run depends on, known by content: digests of data, model, tokenizer, adapter and links."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from flax import nnx
from jaxtyping import PyTree

from ..adapters import Added
from ..data.digests import add_client
from ..data.readers.examples import Records
from ..models import DecoderConfig, EncoderConfig
from ..simulation import Conditions
from ..simulation.digest import digest
from ..tasks import Task

Contents: TypeAlias = dict[str, str]
"""SHA-256 of each thing that a run reads, by the name that errors and rows give it."""


def records_digest(records: Records, *, who: str) -> str:
    """SHA-256 over clients' records, whatever file or package they came from.

    Records count field by field, without their `source`, which says where they came from, and
    without `variables` that are None.
    Cost: some 0.1 s for 10 MB of text.

    Raises `ValueError` for a record with values that are no text, number or array.
    """
    state = hashlib.sha256()
    for client in sorted(records):
        texts = (
            json.dumps(_without_source(record), default=_plain, sort_keys=True)
            for record in records[client]
        )
        try:
            add_client(state, client, texts)
        except TypeError as error:
            raise ValueError(
                f"{who}: client {client!r}: expected records of texts, numbers and arrays, got "
                f"one that has no digest: {error}."
            ) from None
    return state.hexdigest()


def model_contents(
    config: DecoderConfig | EncoderConfig, params: PyTree, tokenizer: Any
) -> Contents:
    """Digests of a pretrained model, its tokenizer and its chat template.

    The parameters count as they were loaded, so that a model has one digest in every file format.
    Cost: one pass over them, one to three seconds a gigabyte, one parameter at a time.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None}  # of the last call, not of the files
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return {
        "model": _text_digest([dataclasses.asdict(config), digest(params)]),
        "tokenizer": _text_digest([state, special]),
        "chat_template": _text_digest(tokenizer.chat_template),
    }


def adapter_digest(task: Task) -> str:
    """SHA-256 of a task's adapter: its trainable parameters, and what else it computes with.

    That is every array and setting of the modules that hold parameters of an adapter, such as the
    scale and the ranks of a LoRA.
    """
    added = {
        ".".join(map(str, path)): [type(module).__name__, _settings(module)]
        for path, module in nnx.iter_graph(task.model(task.params, task.frozen))
        if isinstance(module, nnx.Module)
        and any(isinstance(value, Added) for value in vars(module).values())
    }
    return _text_digest([digest(task.params), added])


def condition_contents(conditions: Conditions, names: Sequence[str]) -> Contents:
    """Digests of an attack's file, and of all clients' links and availability, drawn or not."""
    found = {}
    if conditions.network:
        rows = {name: _row(conditions.network.links, name) for name in names}
        found["link"] = _text_digest(rows)
    if conditions.availability:
        found["availability"] = _text_digest(conditions.availability.windows(names))
    if conditions.attack and conditions.attack.contents:
        found["attack"] = conditions.attack.contents
    return found


def check_contents(expected: Mapping[str, str] | None, got: Contents, *, where: str) -> None:
    """Raise `ValueError` naming the first thing whose content differs.

    Args:
        expected: What an earlier run recorded; None for one that recorded nothing.
        got: The contents now.
        where: The row or folder that `expected` is from.

    """
    if expected is None:
        raise ValueError(
            f"contents: expected digests of data and model in {where}, got none, as an earlier "
            "version wrote it; use another --out."
        )
    for name in sorted(expected.keys() | got.keys()):
        before, now = (each.get(name, "none") for each in (expected, got))
        if before != now:
            raise ValueError(
                f"{name}: expected the content with digest {before[:16]}, as in {where}, got "
                f"{now[:16]}; restore what has changed or use another --out."
            )


def _row(links: Callable[[Sequence[str]], Any], name: str) -> list[float] | None:
    """A client's link; None for one without, which no round may draw."""
    try:
        return [float(column[0]) for column in links([name])]
    except ValueError:
        return None


def _settings(module: nnx.Module) -> dict[str, Any]:
    """Values of a module that are arrays outside the trained parameters, texts or numbers."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, nnx.Variable) and not isinstance(value, nnx.Param):
            found[name] = digest(value[...])
        elif isinstance(value, bool | int | float | str | tuple):
            found[name] = value
    return found


def _without_source(record: Any) -> Any:
    """A record without its source, and without variables if it has none, as before there were."""
    if not hasattr(record, "source"):
        return record
    fields = record._replace(source="")._asdict()
    if fields.get("variables", ...) is None:
        del fields["variables"]
    return list(fields.values())


def _plain(value: Any) -> Any:
    """A value that JSON lacks, in values that it has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, np.ndarray | np.generic):
        return digest(np.asarray(value))
    raise TypeError(type(value).__name__)


def _text_digest(value: Any) -> str:
    text = json.dumps(value, default=_plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
