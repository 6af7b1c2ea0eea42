"""Which products of a model an adapter goes to, by our names, PEFT's, or a pattern."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
"""Products of a block. A model has either qkv_proj (GPT-2) or the three, and may have no gate."""
THEIRS = ("c_attn", "c_proj", "c_fc", "query", "key", "value", "dense")
"""Other last parts of the names that checkpoints give them (GPT-2, BERT)."""


class Product(NamedTuple):
    """A product of all blocks of a model."""

    path: tuple[str, ...]
    """Where the module is in the model."""
    module: Linear
    names: tuple[str, ...]
    """Of each layer's, as Hugging Face names the module: `model.layers.0.self_attn.q_proj`."""

    @property
    def name(self) -> str:
        """Ours, one of `PROJECTIONS`."""
        return self.path[-1]


def products(model: nnx.Module) -> list[Product]:
    """The products of a decoder's, an encoder's or a classifier's blocks, sorted by path."""
    named = hf_names(model)
    found = {
        tuple(map(str, path)): module
        for path, module in nnx.iter_graph(model)
        if isinstance(module, Linear) and path and path[-1] in PROJECTIONS
    }
    return [Product(path, found[path], named[path]) for path in sorted(found)]


def hf_names(model: Any) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The path of each product of a model to the module names of its layers in checkpoints."""
    match model:
        case Decoder():
            parts = entries(model.config)
        case Classifier():
            parts = encoder_entries(model.encoder.config, labels=2)
        case Encoder():
            parts = encoder_entries(model.config)
        case _:
            raise ValueError(
                f"expected a Decoder, an Encoder or a Classifier, got {type(model).__name__}."
            )
    return {
        part.path[:-1]: tuple(
            part.name.removesuffix(".weight").format(layer) for layer in range(part.layers or 1)
        )
        for part in parts
        if part.path[-1] == "kernel"
    }


class Targets(NamedTuple):
    """Names of products, or a pattern."""

    texts: tuple[str, ...]
    """Empty for all products."""
    pattern: bool


def read_targets(targets: Sequence[str] | str | None, *, who: str) -> Targets:
    """Names, with commas between or in a sequence, or one regular expression; None for all.

    Raises `ValueError` for no name and for a pattern that cannot be read.
    """
    if targets is None or targets == "all-linear":
        return Targets((), pattern=False)
    if isinstance(targets, str) and not re.fullmatch(r"[\w.]+(,[\w.]+)*", targets):
        check_pattern(targets, who=who)
        return Targets((targets,), pattern=True)
    texts = tuple(targets.split(",")) if isinstance(targets, str) else tuple(targets)
    known = (*PROJECTIONS, *THEIRS)
    if not texts or not all(str(text).rpartition(".")[2] in known for text in texts):
        raise ValueError(
            f"{who}: targets must be among {', '.join(known)}, these with what comes before them "
            f"in a checkpoint, or one pattern, got {targets!r}."
        )
    return Targets(texts, pattern=False)


def check_pattern(pattern: str, *, who: str) -> None:
    """Raise `ValueError` for what is no regular expression."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{who}: {pattern!r} is no regular expression: {error}.") from None


def chosen(targets: Targets, model: nnx.Module, *, who: str) -> dict[tuple[str, ...], list[bool]]:
    """Of each product, by its path, the layers that targets name.

    A name is one of `PROJECTIONS`, a whole module name, or its last parts; a pattern must match a
    whole module name, as in PEFT's `target_modules`.
    Raises `ValueError` for a name that no product has, and a pattern that matches none.
    """
    there = products(model)

    def named(text: str, product: Product, name: str) -> bool:
        if targets.pattern:
            return re.fullmatch(text, name) is not None
        return text in (product.name, name) or name.endswith(f".{text}")

    found = {
        product.path: [
            not targets.texts or any(named(text, product, name) for text in targets.texts)
            for name in product.names
        ]
        for product in there
    }
    for text in targets.texts:
        if not any(named(text, product, name) for product in there for name in product.names):
            ours = [p for p in PROJECTIONS if any(product.name == p for product in there)]
            raise ValueError(
                f"{who}: targets must be among {', '.join(ours)}, which this model has, or name "
                f"or match its modules, such as {there[0].names[0]}, got {text!r}."
            )
    return {path: layers for path, layers in found.items() if any(layers)}


def by_pattern(patterns: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """What the first pattern says that matches the end of a module's name, as PEFT does."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise
