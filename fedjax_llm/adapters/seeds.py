"""All parameters moved by a few numbers along directions that seeds draw (Qin et al. 2023,
FedKSeed, arXiv:2312.06353).
"""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from .contract import Adapted, Adapter


def seeds(*, count: int) -> Adapter:
    """Train `count` coefficients c; the model's parameters are base + sum of c_k z_k.

    z_k is Gaussian of variance 1 and drawn from the adapter's key and k, which all sides know, so
    that what is sent is 4 bytes a direction whatever the model's size. Coefficients start at zero:
    nothing changes at first.
    Cost: `count` draws of all parameters for each evaluation and each gradient, one at a time in
    memory, beside one copy of the parameters; under `vmap` a copy for each client, so prefer the
    client axis `scan()`. A gradient of c needs that of all parameters; zeroth-order methods need
    only evaluations.
    Raises `ValueError` for a count below 1.
    """
    if type(count) is not int or count < 1:
        raise ValueError(f"seeds: count must be an integer of at least 1, got {count!r}.")

    def restate(key: Key[Array, ""], model: Any, adapted: Adapted) -> Adapted:
        frozen = {
            "base": adapted.params,
            "rest": adapted.frozen,
            "seed": jr.bits(key, (2,), "uint32"),
        }

        def merge(params: PyTree, frozen: PyTree) -> Any:
            moved = along(params["coefficients"], frozen["base"], frozen["seed"])
            return adapted.merge(moved, frozen["rest"])

        return Adapted({"coefficients": jnp.zeros(count)}, frozen, merge)

    return Adapter(lambda key, model: None, nnx.Param, restate)


@jax.custom_vjp
def along(coefficients: Float[Array, " directions"], base: PyTree, seed: Array) -> PyTree:
    """Base + sum of c_k z_k; differentiable in c, and in base."""

    def add(k: Array, moved: PyTree) -> PyTree:
        return jax.tree.map(
            lambda m, z: m + (coefficients[k] * z).astype(m.dtype), moved, direction(base, seed, k)
        )

    return jax.lax.fori_loop(0, len(coefficients), add, base)


def direction(like: PyTree, seed: Array, k: Array | int) -> PyTree:
    """z_k, of the shapes of `like`."""
    key = jr.fold_in(jr.wrap_key_data(seed, impl="threefry2x32"), k)
    leaves, structure = jax.tree.flatten(like)
    drawn = [jr.normal(jr.fold_in(key, i), leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, drawn)


def _forward(coefficients: Array, base: PyTree, seed: Array) -> tuple[PyTree, tuple]:
    like = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), base)
    return along(coefficients, base, seed), (like, seed, coefficients)


def _backward(kept: tuple, gradient: PyTree) -> tuple[Array, PyTree, Any]:
    like, seed, coefficients = kept
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)

    def one(k: Array) -> Float[Array, ""]:
        z = direction(shapes, seed, k)
        return optax.tree.vdot(gradient, z)

    inner = jax.lax.map(one, jnp.arange(len(coefficients)))
    return inner.astype(coefficients.dtype), gradient, None


along.defvjp(_forward, _backward)
