"""Training of some layers alone, as they are."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from ..models import Decoder
from .contract import Adapter
from .prefix_tuning import check_decoder


def layers(first: int, last: int | None = None) -> Adapter:
    """Train the layers from `first` to `last`, both counted and numbered from 0, and freeze all
    others, embeddings and the head.

    `last` is `first` unless given; both may be negative, -1 the model's last. The stack of blocks
    is cut at the two ends, so that what is trained and sent is those layers alone, and nothing is
    computed back below them.
    Raises `ValueError` for layers that the model does not have, when attached.
    """
    for number in (first, last):
        if number is not None and type(number) is not int:
            raise ValueError(f"layers: expected numbers of layers, got {number!r}.")

    def attach(key: Key[Array, ""], model: Decoder) -> None:
        check_decoder(model, who="layers")
        count = model.config.num_hidden_layers
        start, end = (n + count if n < 0 else n for n in (first, first if last is None else last))
        if not 0 <= start <= end < count:
            raise ValueError(
                f"layers: expected numbers from 0 to {count - 1}, the first not above the last, "
                f"got {first!r} and {last!r}."
            )
        graph, stack = nnx.split(model.blocks)

        def cut(rows: slice) -> Any:
            return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[rows], stack))

        if start > 0:
            model.before = cut(slice(0, start))
        if end < count - 1:
            model.after = cut(slice(end + 1, count))
        model.blocks = cut(slice(start, end + 1))

    return Adapter(attach, trainable=_in_blocks)


def _in_blocks(path: tuple[Any, ...], value: Any) -> bool:
    return path[0] == "blocks" and isinstance(value, nnx.Param)
