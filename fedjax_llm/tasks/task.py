"""What a run trains, and by what measure."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from ..local import Frozen, Loss, Params


class Task(NamedTuple):
    """What is trained, and by what measure."""

    params: Params
    """The trainable parameters at the start: nested dictionaries of arrays."""
    frozen: Frozen
    loss: Loss
    """`(params, frozen, batch) -> nats per target`, the mean over the mask."""
    evaluate: Callable[[Params, Frozen, Any], Float[Array, ""]]
    """`(params, frozen, batches) -> nats per target` over leaves `[batches, batch, ...]`."""
    model: Callable[[Params, Frozen], Any]
    """`(params, frozen) -> model`, to generate or to save with; traces."""
