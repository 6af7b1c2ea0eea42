"""Training of a contiguous range of transformer layers."""

from typing import Any

import jax
from fedjax_compression.checks import check_integer
from flax import nnx
from jaxtyping import Array, Key

from ..models import Decoder
from .contract import Adapter
from .prefix_tuning import check_decoder


def layers(first: int, last: int | None = None) -> Adapter:
    """Train the transformer layers from `first` to `last`, and freeze everything else.

    Embeddings, the final norm and the head are frozen too. The stack of layers is cut at both
    ends of the range: only the layers of the range are trained and sent, and the backward pass
    stops at the first of them.

    Args:
        first: First layer to train, from 0. A negative number counts from the end; -1 is the
            model's last layer.
        last: Last layer to train, included; negative as for `first`. Default: `first`, one layer.

    Returns:
        The adapter, for a `Decoder`. It adds no parameters.

    Raises:
        ValueError: If a number is not an integer; when attached, if the model lacks these layers
            or `first` comes after `last`.
        TypeError: When attached, if the model is not a `Decoder`.

    Example:
        >>> import jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import layers
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=layers(-1))
        >>> task.params["blocks"]["mlp"]["up_proj"]["kernel"].shape  # one layer of two
        (1, 8, 12)

    """
    check_integer(first, who="layers", name="first")
    if last is not None:
        check_integer(last, who="layers", name="last")

    def attach(key: Key[Array, ""], model: Decoder) -> None:
        check_decoder(model, who="layers")
        count = model.config.num_hidden_layers
        start, end = (n + count if n < 0 else n for n in (first, first if last is None else last))
        if not 0 <= start <= end < count:
            raise ValueError(
                f"layers: first, last: expected 0 <= first <= last <= {count - 1} in a model of "
                f"{count} layers, got {first!r} and {last!r}."
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
