"""A language model split in two: a lower half whose activations go to an upper half."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..algorithm import Asked, Halves
from ..client_training import Frozen, Params
from ..data import Batch
from .contract import Task, check_task


def halves(task: Task, layers: int, cut: int) -> Halves:
    """Split a language model between two layers, for split learning.

    `upper(upper_params, frozen, lower(lower_params, frozen, batch), asked)` is the task's loss, to
    rounding. Both halves take all frozen parameters, and use those of their layers.

    Args:
        task: A task of `language_model`.
        layers: Number of layers of its decoder, at least 2.
        cut: Number of layers in the lower half, from 1 to `layers - 1`.

    Returns:
        The two halves.

    Raises:
        TypeError: If `task` is not a `Task`.
        ValueError: For a cut that leaves a half without a layer, for fewer than 2 layers, and
            unless the trainable parameters and the frozen blocks are stacks of all layers, as with
            `lora(rank=8)`. The message names no function, so that a method can put its name before
            it.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model, lora
        >>> from fedjax_llm.tasks import halves
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> adapter = lora(rank=3, targets="q_proj")
        >>> task = language_model(config, key=jr.key(0), adapter=adapter)
        >>> lower, upper = halves(task, layers=2, cut=1).part(task.params)
        >>> jax.tree.map(jnp.shape, lower)
        {'blocks': {'attention': {'q_proj': {'adapter': {'a': (1, 8, 3), 'b': (1, 3, 8)}}}}}

    """
    check_task(task, who="halves")
    if layers < 2:
        raise ValueError(f"layers: expected a model of at least 2 layers, got {layers!r}.")
    if type(cut) is not int or not 1 <= cut < layers:
        raise ValueError(
            f"cut: expected an integer from 1 to {layers - 1} in a model of {layers} layers, got "
            f"{cut!r}."
        )
    for path, leaf in jax.tree.leaves_with_path({"blocks": task.frozen.get("blocks", {})}):
        _check(path, leaf, layers, "frozen blocks")
    for path, leaf in jax.tree.leaves_with_path(task.params):
        _check(path, leaf, layers, "trainable parameters")

    def part(params: Params) -> tuple[Params, Params]:
        return _rows(params, slice(0, cut)), _rows(params, slice(cut, layers))

    def blocks(frozen: Frozen, rows: slice) -> Frozen:
        return {**frozen, "blocks": _rows(frozen.get("blocks", {}), rows)}

    def lower(params: Params, frozen: Frozen, batch: Batch) -> Float[Array, "batch seq width"]:
        model = task.model(params, blocks(frozen, slice(0, cut)))
        tokens, segments, positions = map(_wide, (batch.tokens, batch.segments, batch.positions))
        return model.lower(tokens, positions=positions, segments=segments)

    def upper(
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
        lower,
        upper,
    )


def _check(path: tuple, leaf: Any, layers: int, what: str) -> None:
    """Raise `ValueError` unless a leaf is a stack of all layers."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not name.startswith("blocks/") or leaf.shape[:1] != (layers,):
        raise ValueError(
            f"{what}: expected stacks of {layers} layers, such as those of lora(rank=8), got "
            f"{name} of shape {leaf.shape}."
        )


def _rows(tree: PyTree, rows: slice) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _wide(leaf: Any) -> Any:
    """As int32, or None."""
    return None if leaf is None else jnp.asarray(leaf, jnp.int32)
