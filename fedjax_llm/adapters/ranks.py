"""Layers of different rank: padded with zeros where they are stacked, and never sent so."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .contract import Adapted

Path = tuple[Any, ...]


class Ranks(NamedTuple):
    """Which layers of a stack have which rank."""

    each: tuple[int, ...]
    """One for each layer; 0 for a layer without an adapter."""

    def groups(self) -> dict[str, np.ndarray]:
        """Layers by rank."""
        ranks = sorted(set(self.each) - {0})
        return {f"rank{rank}": np.flatnonzero(np.array(self.each) == rank) for rank in ranks}

    def take(self, stacked: Array, *, axis: int) -> dict[str, Array]:
        """The stack of each rank, without padding; `axis` is that of the rank, -1 or -2."""
        return {
            name: jnp.take(stacked[rows], np.arange(int(name[4:])), axis=axis)
            for name, rows in self.groups().items()
        }

    def put(self, parts: Mapping[str, Array], *, axis: int) -> Float[Array, "layers _ _"]:
        """The one stack, padded with zeros: the inverse of `take`."""
        groups, most = self.groups(), max(self.each)
        shape = list(next(iter(parts.values())).shape[1:])
        shape[axis] = most
        whole = jnp.zeros((len(self.each), *shape))
        for name, rows in groups.items():
            widths = [(0, 0)] * 3
            widths[axis] = (0, most - int(name[4:]))
            whole = whole.at[rows].set(jnp.pad(parts[name], widths))
        return whole


def unpadded(adapted: Adapted, ranks: Mapping[Path, Ranks]) -> Adapted:
    """The same with the LoRA at each path in one stack for each rank, so that padding is neither
    trained nor sent. Magnitudes (DoRA) are kept of the layers that have a rank.
    """
    if not ranks:
        return adapted

    def restated(params: PyTree) -> PyTree:
        for path, rank in ranks.items():
            rows = np.flatnonzero(rank.each)
            params = _changed(
                params,
                path,
                lambda low, rank=rank, rows=rows: {
                    "a": rank.take(low["a"], axis=-1),
                    "b": rank.take(low["b"], axis=-2),
                    **({"magnitude": low["magnitude"][rows]} if "magnitude" in low else {}),
                },
            )
        return params

    def merge(params: PyTree, frozen: PyTree) -> Any:
        for path, rank in ranks.items():
            start = _at(adapted.params, path).get("magnitude")
            params = _changed(
                params, path, lambda low, rank=rank, start=start: _whole(low, rank, start)
            )
        return adapted.merge(params, frozen)

    return Adapted(restated(adapted.params), adapted.frozen, merge)


def _whole(low: Mapping[str, Any], rank: Ranks, start: Array | None) -> dict[str, Array]:
    whole = {"a": rank.put(low["a"], axis=-1), "b": rank.put(low["b"], axis=-2)}
    if start is not None:
        whole["magnitude"] = start.at[np.flatnonzero(rank.each)].set(low["magnitude"])
    return whole


def _at(tree: PyTree, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _changed(tree: PyTree, path: Path, change: Any) -> PyTree:
    """The tree with one node changed."""
    if not path:
        return change(tree)
    return {**tree, path[0]: _changed(tree[path[0]], path[1:], change)}
