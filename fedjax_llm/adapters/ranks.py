"""LoRA stacks whose layers have different ranks: padded to compute, unpadded to train and send."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .contract import Adapted

Path = tuple[Any, ...]


class Ranks(NamedTuple):
    """The rank of each layer of a stack.

    Attributes:
        each: One rank per layer; 0 for a layer without an adapter.

    """

    each: tuple[int, ...]

    def groups(self) -> dict[str, np.ndarray]:
        """Group the layers by rank: `rank{r}` to the layers' indices."""
        ranks = sorted(set(self.each) - {0})
        return {f"rank{rank}": np.flatnonzero(np.array(self.each) == rank) for rank in ranks}

    def split(self, stacked: Array, *, axis: int) -> dict[str, Array]:
        """Split a padded stack into one stack per rank; `axis` is the rank's axis, -1 or -2."""
        return {
            name: jnp.take(stacked[rows], np.arange(int(name[4:])), axis=axis)
            for name, rows in self.groups().items()
        }

    def join(self, stacks: Mapping[str, Array], *, axis: int) -> Float[Array, "layers _ _"]:
        """Join the stacks of `split` into one, padded with zeros."""
        groups, most = self.groups(), max(self.each)
        shape = list(next(iter(stacks.values())).shape[1:])
        shape[axis] = most
        whole = jnp.zeros((len(self.each), *shape))
        for name, rows in groups.items():
            widths = [(0, 0)] * 3
            widths[axis] = (0, most - int(name[4:]))
            whole = whole.at[rows].set(jnp.pad(stacks[name], widths))
        return whole


def unpadded(adapted: Adapted, ranks: Mapping[Path, Ranks]) -> Adapted:
    """Restate the LoRA at each path as one stack per rank, so that no padding is trained or sent.

    DoRA's magnitudes are kept for the layers that have a rank.
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
                    "a": rank.split(low["a"], axis=-1),
                    "b": rank.split(low["b"], axis=-2),
                    **({"magnitude": low["magnitude"][rows]} if "magnitude" in low else {}),
                },
            )
        return params

    def merge(params: PyTree, frozen: PyTree) -> Any:
        for path, rank in ranks.items():
            start = _at(adapted.params, path).get("magnitude")
            params = _changed(
                params, path, lambda low, rank=rank, start=start: _padded(low, rank, start)
            )
        return adapted.merge(params, frozen)

    return Adapted(restated(adapted.params), adapted.frozen, merge)


def _padded(low: Mapping[str, Any], rank: Ranks, start: Array | None) -> dict[str, Array]:
    """The padded stacks of one LoRA; layers without a rank keep their initial magnitude."""
    whole = {"a": rank.join(low["a"], axis=-1), "b": rank.join(low["b"], axis=-2)}
    if start is not None:
        whole["magnitude"] = start.at[np.flatnonzero(rank.each)].set(low["magnitude"])
    return whole


def _at(tree: PyTree, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _changed(tree: PyTree, path: Path, change: Any) -> PyTree:
    """A copy of the tree with the node at a path replaced by `change(node)`."""
    if not path:
        return change(tree)
    return {**tree, path[0]: _changed(tree[path[0]], path[1:], change)}
