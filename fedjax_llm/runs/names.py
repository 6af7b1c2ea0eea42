"""What the texts of a configuration may name, and how they are read."""

from collections.abc import Callable, Mapping
from typing import Any

import optax
from fedjax_compression.text import build, parse

from .. import adapters

ADAPTERS: Mapping[str, Callable] = {
    factory.__name__: factory
    for factory in (
        adapters.bitfit,
        adapters.bottleneck,
        adapters.dora,
        adapters.full,
        adapters.ia3,
        adapters.import_adapter,
        adapters.int8_base,
        adapters.layers,
        adapters.lora,
        adapters.nf4_base,
        adapters.prefix_tuning,
        adapters.prompt_tuning,
        adapters.rslora,
        adapters.seeds,
    )
}
OPTIMIZERS = {
    factory.__name__: factory
    for factory in (
        optax.adagrad,
        optax.adam,
        optax.adamw,
        optax.chain,
        optax.clip_by_global_norm,
        optax.lion,
        optax.rmsprop,
        optax.sgd,
        optax.yogi,
    )
}


def built(name: str, text: str | None, factories: Mapping[str, Callable]) -> Any:
    """What the text of a field names."""
    return named(name, lambda: build(parse(text or ""), factories))


def named(name: str, read: Callable, *args: Any) -> Any:
    """What `read` makes of a field, or its error with the field's name."""
    try:
        return read(*args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None
