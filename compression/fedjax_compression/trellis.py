"""Entropy-coded trellis quantisation at a rate that is met (Fischer & Wang 1992)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from .compressor import Compressor, Like, Payload, State, Update
from .entropy_coded import table_runs
from .flat import flatten, unflatten
from .trellis_path import PATH_BYTES, Path, find_path, walk_path
from .union_trellis import check_trellis
from .wire import HEADER_BYTES


def trellis(*, rate: float | int, states: int = 32) -> Compressor:
    check_trellis(rate, states, who="trellis")

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        x = flatten(update, who="trellis").astype(jnp.float32)
        runs = table_runs(update)
        classes = [jnp.full(length, run, jnp.int32) for run, length in enumerate(runs)]
        bits = rate * x.size - 8 * (HEADER_BYTES + PATH_BYTES)
        weight = min(0.4 * rate**1.6, 0.4)
        path = find_path(
            x, jnp.concatenate([jnp.zeros(0,jnp.int32),*classes]), jnp.array(runs,jnp.int32), bits=bits, states=states, weight=weight
        )
        return path, state

    def decode(payload: Path, like: Like) -> Update:
        return unflatten(walk_path(payload, states=states), like)

    return Compressor(init=lambda like: (), encode=encode, decode=decode)
