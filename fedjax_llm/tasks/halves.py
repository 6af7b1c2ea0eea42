"""A decoder in two halves, of which one sends the other what its last block makes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..client_training import Frozen, Params
from ..data import Batch
from .contract import Task


class Asked(NamedTuple):
    """What the upper half must know of a batch: all but its tokens."""

    targets: Int[Array, "batch seq"]
    mask: Any
    segments: Int[Array, "batch seq"] | None
    positions: Int[Array, "batch seq"] | None


class Halves(NamedTuple):
    """A language model below and above a cut."""

    part: Callable[[Params], tuple[Params, Params]]
    """`(params) -> (lower, upper)`."""
    join: Callable[[Params, Params], Params]
    lower: Callable[[Params, Frozen, Batch], Float[Array, "batch seq width"]]
    """`(lower params, frozen, batch) -> activations`."""
    upper: Callable[[Params, Frozen, Float[Array, "batch seq width"], Asked], Float[Array, ""]]
    """`(upper params, frozen, activations, asked) -> nats per target`; 0 where there is none."""


def halves(task: Task, layers: int, cut: int) -> Halves:
    """A task of `language_model` whose decoder has so many layers, the first `cut` below.

    `upper(upper, frozen, lower(lower, frozen, batch), asked)` is the task's loss, to rounding.
    `frozen` is whole at either half, and each uses what it needs of it.
    Raises `ValueError` unless there is a layer in either half, and where what is trained, or the
    frozen blocks, are not stacks of all layers, as with `lora(rank=8)` they are.
    """
    if type(cut) is not int or not 1 <= cut < layers:
        raise ValueError(
            f"expected to cut a model of {layers} layers at 1 to {layers - 1}, got {cut!r}."
        )
    for path, leaf in jax.tree.leaves_with_path({"blocks": task.frozen.get("blocks", {})}):
        _check(path, leaf, layers, "frozen")
    for path, leaf in jax.tree.leaves_with_path(task.params):
        _check(path, leaf, layers, "trained")

    def part(params: Params) -> tuple[Params, Params]:
        return _rows(params, slice(0, cut)), _rows(params, slice(cut, layers))

    def blocks(frozen: Frozen, rows: slice) -> Frozen:
        return {**frozen, "blocks": _rows(frozen.get("blocks", {}), rows)}

    def below(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, "batch seq width"]:
        model = task.model(params, blocks(frozen, slice(0, cut)))
        tokens, segments, positions = map(_wide, (batch.tokens, batch.segments, batch.positions))
        return model.lower(tokens, positions=positions, segments=segments)

    def above(
        params: Params, frozen: Frozen, hidden: Float[Array, "batch seq width"], asked: Asked
    ) -> Float[Array, ""]:
        model = task.model(params, blocks(frozen, slice(cut, layers)))
        targets, segments, positions = map(_wide, (asked.targets, asked.segments, asked.positions))
        logits = model.upper(hidden, first=cut, positions=positions, segments=segments)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets) * asked.mask
        return nats.sum() / jnp.maximum(asked.mask.sum(), 1)

    return Halves(
        part,
        lambda lower, upper: jax.tree.map(lambda *leaves: jnp.concatenate(leaves), lower, upper),
        below,
        above,
    )


def _check(path: tuple, leaf: Any, layers: int, what: str) -> None:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not name.startswith("blocks/") or leaf.shape[:1] != (layers,):
        raise ValueError(
            f"expected what is {what} to be stacks of {layers} layers, such as those of "
            f"lora(rank=8), got {name} of shape {leaf.shape}."
        )


def _rows(tree: PyTree, rows: slice) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _wide(leaf: Any) -> Any:
    return None if leaf is None else jnp.asarray(leaf, jnp.int32)
