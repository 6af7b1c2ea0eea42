"""Which projections of a model an adapter is added to: by name, by PEFT's names, or by pattern."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from fedjax_compression.checks import check_kind
from flax import nnx

from ..models import Classifier, Decoder, Encoder
from ..models.hf_encoder import encoder_entries
from ..models.hf_tensors import entries
from ..models.layers import Linear

PROJECTIONS = (
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)
"""Linear layers of a block. A model has qkv_proj (GPT-2) or the three, and may have no gate."""
HF_NAMES = ("c_attn", "c_proj", "c_fc", "query", "key", "value", "dense")
"""Other last components of the names that checkpoints give them (GPT-2, BERT)."""


class Projection(NamedTuple):
    """One projection of a model, stacked over all blocks.

    Attributes:
        path: Attribute names from the model to the module; the last one is in `PROJECTIONS`.
        module: The stacked linear layer.
        names: Hugging Face's module name of each layer, such as `model.layers.0.self_attn.q_proj`.

    """

    path: tuple[str, ...]
    module: Linear
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name in `PROJECTIONS`."""
        return self.path[-1]


def projections(model: nnx.Module, *, who: str) -> list[Projection]:
    """List the projections of all blocks, sorted by path.

    Args:
        model: A `Decoder`, an `Encoder` or a `Classifier`.
        who: The function that was called, for the error.

    Returns:
        The projections.

    Raises:
        TypeError: For any other model.

    """
    names = hf_names(model, who=who)
    modules = {
        tuple(map(str, path)): module
        for path, module in nnx.iter_graph(model)
        if isinstance(module, Linear) and path and path[-1] in PROJECTIONS
    }
    rows = _rows_of_stacks(model)

    def names_of(path: tuple[str, ...]) -> tuple[str, ...]:
        if path[0] not in rows:
            return names[path]
        return names["blocks", *path[1:]][rows[path[0]]]

    return [Projection(path, modules[path], names_of(path)) for path in sorted(modules)]


def _rows_of_stacks(model: nnx.Module) -> dict[str, slice]:
    """Which layers of a decoder are in `before`, `blocks` and `after`."""
    rows, done = {}, 0
    for stack in ("before", "blocks", "after"):
        if isinstance(model, Decoder) and (blocks := getattr(model, stack)) is not None:
            count = len(jax.tree.leaves(nnx.state(blocks))[0])
            rows[stack] = slice(done, done + count)
            done += count
    return rows


def hf_names(model: Any, *, who: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Map the path of each projection to the module names of its layers in checkpoints."""
    check_kind(
        model,
        (Decoder, Encoder, Classifier),
        who=who,
        name="model",
        expected="a Decoder, an Encoder or a Classifier",
    )
    if isinstance(model, Decoder):
        tensors = entries(model.config)
    elif isinstance(model, Classifier):
        tensors = encoder_entries(model.encoder.config, labels=2)
    else:
        tensors = encoder_entries(model.config)
    return {
        tensor.path[:-1]: tuple(
            tensor.name.removesuffix(".weight").format(layer) for layer in range(tensor.layers or 1)
        )
        for tensor in tensors
        if tensor.path[-1] == "kernel"
    }


class Targets(NamedTuple):
    """The parsed `targets` argument of an adapter.

    Attributes:
        texts: Names of projections, or one pattern; empty for all projections.
        pattern: Whether `texts` is a pattern.

    """

    texts: tuple[str, ...]
    pattern: bool


def read_targets(targets: Sequence[str] | str | None, *, who: str) -> Targets:
    """Parse a `targets` argument.

    Args:
        targets: Names as a sequence or separated by commas, one regular expression, or None or
            "all-linear" for all projections.
        who: The function that was called, for the errors.

    Returns:
        The parsed targets.

    Raises:
        TypeError: If `targets` is of another kind.
        ValueError: For no name, an unknown name, and an invalid pattern.

    """
    if targets is None or targets == "all-linear":
        return Targets((), pattern=False)
    if isinstance(targets, str) and not re.fullmatch(r"[\w.]+(,[\w.]+)*", targets):
        check_pattern(targets, who=who, name="targets")
        return Targets((targets,), pattern=True)
    kind = "names as a sequence or with commas between, or one pattern"
    check_kind(targets, Iterable, who=who, name="targets", expected=kind)
    texts = tuple(targets.split(",")) if isinstance(targets, str) else tuple(targets)
    known = (*PROJECTIONS, *HF_NAMES)
    if not texts or not all(str(text).rpartition(".")[2] in known for text in texts):
        raise ValueError(
            f"{who}: targets: expected names among {', '.join(known)}, which may follow a prefix "
            f"of a checkpoint's module name, or one pattern, got {targets!r}."
        )
    return Targets(texts, pattern=False)


def check_pattern(pattern: str, *, who: str, name: str) -> None:
    """Raise `ValueError` unless a text is a valid regular expression."""
    check_kind(pattern, str, who=who, name=name, expected="a regular expression as text")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"{who}: {name}: expected a valid regular expression, got {pattern!r}: {error}."
        ) from None


def select(targets: Targets, model: nnx.Module, *, who: str) -> dict[tuple[str, ...], list[bool]]:
    """Find the layers of each projection that the targets name.

    A name is one of `PROJECTIONS`, a whole module name, or its last components. A pattern must
    match a whole module name, as in PEFT's `target_modules`.

    Args:
        targets: The parsed targets.
        model: The model.
        who: The function that was called, for the errors.

    Returns:
        For each projection with a selected layer, by its path: whether each layer is selected.

    Raises:
        ValueError: For a name that no projection has, and for a pattern that matches none.

    """
    found = projections(model, who=who)

    def matches(text: str, projection: Projection, name: str) -> bool:
        if targets.pattern:
            return re.fullmatch(text, name) is not None
        return text in (projection.name, name) or name.endswith(f".{text}")

    selected = {
        projection.path: [
            not targets.texts or any(matches(text, projection, name) for text in targets.texts)
            for name in projection.names
        ]
        for projection in found
    }
    for text in targets.texts:
        if not any(
            matches(text, projection, name) for projection in found for name in projection.names
        ):
            names = [p for p in PROJECTIONS if any(projection.name == p for projection in found)]
            raise ValueError(
                f"{who}: targets: expected names among {', '.join(names)}, which this model has, "
                f"or of its modules, such as {found[0].names[0]}, or a pattern that matches some, "
                f"got {text!r}."
            )
    return {path: layers for path, layers in selected.items() if any(layers)}


def check_matched(patterns: Iterable[str], modules: Sequence[str], *, who: str, name: str) -> None:
    """Raise `ValueError` for a pattern that `by_pattern` uses for none of the modules."""
    unused = dict.fromkeys(patterns)
    given = {pattern: pattern for pattern in unused}
    for module in modules:
        unused.pop(by_pattern(given, module, None), None)
    if unused:
        raise ValueError(
            f"{who}: {name}: expected each pattern to be the first that matches the end of an "
            f"adapted module's name, such as {modules[0]}, got {next(iter(unused))!r}, which is "
            "for none; remove it, or put it first."
        )


def by_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """Look up the first pattern that matches the end of a module's name, as PEFT does."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
