"""LoRA's parameters as pairs of factors: found, multiplied, stacked, cut, put back."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Path = tuple[str, ...]


class Pair(NamedTuple):
    """The factors of one product, or of its layers: what is added to a kernel is scale * a b."""

    a: Float[Array, "*layers in rank"]
    b: Float[Array, "*layers rank out"]


def named_pairs(params: PyTree, *, who: str) -> list[tuple[Path, Pair]]:
    """Every pair with its path, in the order of the paths.

    A node with `a` and `b` is a pair; where these are dictionaries themselves (layers of different
    ranks), each of their names is one.
    Raises `ValueError` where there is no pair, or a parameter that is not of one: a magnitude
    (DoRA), a bias, a head.
    """
    found = list(_found(params, (), who))
    if not found:
        raise ValueError(f"{who}: expected LoRA's a and b among the parameters, got none.")
    return found


def pairs(params: PyTree, *, who: str) -> list[Pair]:
    """The pairs of `named_pairs`, without their paths."""
    return [pair for _, pair in named_pairs(params, who=who)]


def with_pairs(params: PyTree, new: Sequence[Pair]) -> PyTree:
    """The parameters with other pairs in the places of their own, in the dtypes of their own."""
    left = iter(new)

    def put(tree: Any) -> Any:
        if not _is_pair(tree):
            return {name: put(tree[name]) for name in sorted(tree)}
        if not isinstance(tree["a"], dict):
            return _cast(next(left), tree)
        parts = {
            name: _cast(next(left), {"a": tree["a"][name], "b": tree["b"][name]})
            for name in sorted(tree["a"])
        }
        return {half: {name: part[half] for name, part in parts.items()} for half in ("a", "b")}

    return put(params)


def product(pair: Pair) -> Float[Array, "*layers in out"]:
    """A b, in float32."""
    return jnp.matmul(_wide(pair.a), _wide(pair.b), precision="highest")


def cut(matrix: Float[Array, "*layers in out"], rank: int) -> Pair:
    """The nearest product of that rank: singular vectors, each half with the root of its value.

    By decreasing value, so that the first columns of a and rows of b are the nearest of a lower
    rank, too. The squared error is the sum of the squared values that are left out (Eckart & Young
    1936).
    """
    u, s, v = jnp.linalg.svd(_wide(matrix), full_matrices=False)
    root = jnp.sqrt(s[..., :rank])
    return Pair(u[..., :rank] * root[..., None, :], root[..., None] * v[..., :rank, :])


def side_by_side(stacked: Pair) -> Pair:
    """Pairs `[clients, *layers, ...]` as one of rank clients * rank, whose product is the sum of
    theirs.
    """
    a = jnp.moveaxis(_wide(stacked.a), 0, -2)  # [*layers, in, clients, rank]
    b = jnp.moveaxis(_wide(stacked.b), 0, -3)  # [*layers, clients, rank, out]
    total = a.shape[-2] * a.shape[-1]
    return Pair(a.reshape(*a.shape[:-2], total), b.reshape(*b.shape[:-3], total, b.shape[-1]))


def _found(tree: Any, path: Path, who: str) -> Iterator[tuple[Path, Pair]]:
    if not isinstance(tree, dict) or ({"a", "b"} & set(tree) and not _is_pair(tree)):
        extra = ", ".join(map(str, tree)) if isinstance(tree, dict) else "/".join(path) or "one"
        raise ValueError(
            f"{who}: expected LoRA's a and b alone among the parameters, whose products are what "
            f"is averaged, got {extra}: with DoRA's magnitudes, biases or heads use fed_avg."
        )
    if not _is_pair(tree):
        for name in sorted(tree):
            yield from _found(tree[name], (*path, name), who)
    elif isinstance(tree["a"], dict):
        for name in sorted(tree["a"]):
            yield (*path, name), Pair(tree["a"][name], tree["b"][name])
    else:
        yield path, Pair(tree["a"], tree["b"])


def _is_pair(tree: Any) -> bool:
    return isinstance(tree, dict) and set(tree) == {"a", "b"}


def _cast(pair: Pair, tree: Any) -> dict[str, Array]:
    return {"a": pair.a.astype(tree["a"].dtype), "b": pair.b.astype(tree["b"].dtype)}


def _wide(leaf: Array) -> Float[Array, "..."]:
    return jnp.asarray(leaf, jnp.float32)
