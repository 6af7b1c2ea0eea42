"""Checks of a factory's arguments."""

from typing import Any

import jax
import jax.numpy as jnp
from fedjax_compression import Compressor, has_receiver_memory

from ...client_training import Params


def check_structure(params: Params, like: Params, *, who: str) -> None:
    """Raise `ValueError` where parameters have not the structure, shapes and dtypes of `like`."""
    got, expected = (
        [(jax.tree_util.keystr(path), leaf.shape, leaf.dtype) for path, leaf in leaves]
        for leaves in map(jax.tree_util.tree_leaves_with_path, (params, like))
    )
    for g, e in zip(got, expected, strict=False):
        if g != e:
            raise ValueError(f"{who}: expected parameters like {e}, got {g}.")
    if len(got) != len(expected):
        raise ValueError(f"{who}: expected {len(expected)} parameters, got {len(got)}.")


def check_no_memory(uplink: Compressor, *, who: str, why: str) -> None:
    """Raise `ValueError` for a codec whose receiver keeps a memory."""
    if has_receiver_memory(uplink):
        raise ValueError(
            f"{who}: expected an uplink whose receiver keeps no memory, as {why}; "
            "got one that does, such as ef21 or diana."
        )


def check_keeps_nothing(codec: Compressor, *, name: str, who: str) -> None:
    """Raise `ValueError` for a codec with a memory at either end."""
    probe = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    kept = jax.tree.leaves(jax.eval_shape(lambda: codec.init(probe)))
    if kept or has_receiver_memory(codec):
        raise ValueError(
            f"{who}: expected a codec without a memory on the {name}, as each message is of other "
            "text than the one before, got one with: error_feedback, ef21, diana or the like."
        )


def check_positive(value: Any, *, name: str, who: str) -> None:
    """Raise `ValueError` unless a number is above 0 and finite."""
    if isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{who}: {name} must be above 0 and finite, got {value!r}.")
