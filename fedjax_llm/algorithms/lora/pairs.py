"""LoRA parameters as pairs of factors: find, multiply, join, factorise and replace them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from fedjax_compression.ops.decompositions import svd
from jaxtyping import Array, Float, PyTree

Path = tuple[str, ...]


class Pair(NamedTuple):
    """LoRA factors of one product, or of its stacked layers: the kernel's change is scale * a b.

    Attributes:
        a: Input factor, `[*layers, in, rank]`.
        b: Output factor, `[*layers, rank, out]`.

    """

    a: Float[Array, "*layers in rank"]
    b: Float[Array, "*layers rank out"]


def named_pairs(params: PyTree, *, who: str) -> list[tuple[Path, Pair]]:
    """Every pair of factors with its path, sorted by path.

    A node with the keys `a` and `b` is a pair. Where both are dictionaries (layers of different
    ranks), each of their names is a pair.

    Raises:
        ValueError: If there is no pair, or for a parameter that belongs to none: a magnitude
            (DoRA), a bias, a head.

    """
    found = list(_walk(params, (), who))
    if not found:
        raise ValueError(f"{who}: params: expected LoRA factors a and b, got none.")
    return found


def pairs(params: PyTree, *, who: str) -> list[Pair]:
    """The pairs of `named_pairs`, without their paths."""
    return [pair for _, pair in named_pairs(params, who=who)]


def with_pairs(params: PyTree, new: Sequence[Pair]) -> PyTree:
    """The parameters with their pairs replaced, in the order of `pairs` and in the old dtypes."""
    left = iter(new)

    def put(tree: Any) -> Any:
        if not _is_pair(tree):
            return {name: put(tree[name]) for name in sorted(tree)}
        if not isinstance(tree["a"], dict):
            return _cast(next(left), tree)
        by_name = {
            name: _cast(next(left), {"a": tree["a"][name], "b": tree["b"][name]})
            for name in sorted(tree["a"])
        }
        return {
            factor: {name: pair[factor] for name, pair in by_name.items()} for factor in ("a", "b")
        }

    return put(params)


def product(pair: Pair) -> Float[Array, "*layers in out"]:
    """The product a b, in float32."""
    return jnp.matmul(_float32(pair.a), _float32(pair.b), precision="highest")


def svd_factors(matrix: Float[Array, "*layers in out"], rank: int) -> Pair:
    """Factors of the nearest product of a rank; each gets the root of every singular value.

    Singular values decrease, so that the first columns of a and rows of b are also the nearest
    product of a lower rank. The squared error is the sum of the squared singular values that are
    left out (Eckart & Young 1936).
    """
    u, s, v = svd(_float32(matrix))
    root = jnp.sqrt(s[..., :rank])
    return Pair(u[..., :rank] * root[..., None, :], root[..., None] * v[..., :rank, :])


def joined(stacked: Pair) -> Pair:
    """One pair of rank clients * rank from pairs `[clients, *layers, ...]`; its product is the sum
    of theirs.
    """
    a = jnp.moveaxis(_float32(stacked.a), 0, -2)  # [*layers, in, clients, rank]
    b = jnp.moveaxis(_float32(stacked.b), 0, -3)  # [*layers, clients, rank, out]
    total = a.shape[-2] * a.shape[-1]
    return Pair(a.reshape(*a.shape[:-2], total), b.reshape(*b.shape[:-3], total, b.shape[-1]))


def _walk(tree: Any, path: Path, who: str) -> Iterator[tuple[Path, Pair]]:
    if not isinstance(tree, dict) or ({"a", "b"} & set(tree) and not _is_pair(tree)):
        got = ", ".join(map(str, tree)) if isinstance(tree, dict) else "/".join(path)
        raise ValueError(
            f"{who}: params: expected LoRA factors a and b only, got "
            f"{got or type(tree).__name__}; use fed_avg for DoRA magnitudes, biases or heads."
        )
    if not _is_pair(tree):
        for name in sorted(tree):
            yield from _walk(tree[name], (*path, name), who)
    elif isinstance(tree["a"], dict):
        for name in sorted(tree["a"]):
            yield (*path, name), Pair(tree["a"][name], tree["b"][name])
    else:
        yield path, Pair(tree["a"], tree["b"])


def _is_pair(tree: Any) -> bool:
    return isinstance(tree, dict) and set(tree) == {"a", "b"}


def _cast(pair: Pair, tree: Any) -> dict[str, Array]:
    return {"a": pair.a.astype(tree["a"].dtype), "b": pair.b.astype(tree["b"].dtype)}


def _float32(leaf: Array) -> Float[Array, "..."]:
    return jnp.asarray(leaf, jnp.float32)
