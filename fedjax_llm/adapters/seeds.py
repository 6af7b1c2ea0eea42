"""Coefficients along seeded random directions (Qin et al. 2023, FedKSeed, arXiv:2312.06353)."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression.checks import check_integer
from flax import nnx
from jaxtyping import Array, Float, Key, PyTree

from ..precision import cast, master_copy
from ..seeded_directions import direction
from .contract import Adapted, Adapter


def seeds(*, count: int) -> Adapter:
    """Train `count` coefficients c, where the model's parameters are base + sum over k of c_k z_k.

    Each direction z_k is standard Gaussian with the shapes of all parameters, drawn from a seed
    that is part of the frozen parameters, and k. Clients and server share the seed, so an update
    takes 4 bytes per direction whatever the model's size. Coefficients start at zero: the initial
    model computes the same function.
    Cost: each evaluation and each gradient draws all directions, one at a time, and keeps one copy
    of the parameters beside the base; under `vmap` one copy per client, so prefer the client axis
    `scan()`. The gradient of c needs the gradient of all parameters; zeroth-order methods need only
    evaluations.

    Args:
        count: Number of directions, at least 1.

    Returns:
        The adapter, for any model.

    Raises:
        ValueError: If `count` is not an integer of at least 1.

    Example:
        >>> import jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import seeds
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=seeds(count=5))
        >>> task.params["coefficients"].tolist(), sorted(task.frozen)
        ([0.0, 0.0, 0.0, 0.0, 0.0], ['base', 'rest', 'seed'])

    """
    check_integer(count, who="seeds", name="count", at_least=1)

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
    """Compute base + sum over k of c_k z_k; differentiable in the coefficients and the base.

    The sum is made in float32 and rounded once to the dtypes of the base.
    """

    def add(k: Array, moved: PyTree) -> PyTree:
        return jax.tree.map(
            lambda m, z: m + coefficients[k] * z.astype(m.dtype), moved, direction(base, seed, k)
        )

    return cast(jax.lax.fori_loop(0, len(coefficients), add, master_copy(base)), base)


def _forward(coefficients: Array, base: PyTree, seed: Array) -> tuple[PyTree, tuple]:
    # empty arrays carry the shapes and dtypes of the base to the backward pass, without its values
    like = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), leaf.dtype), base)
    return along(coefficients, base, seed), (like, seed, coefficients)


def _backward(saved: tuple, gradient: PyTree) -> tuple[Array, PyTree, Any]:
    like, seed, coefficients = saved
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)

    def slope(k: Array) -> Float[Array, ""]:
        return optax.tree.vdot(gradient, direction(shapes, seed, k))

    inner = jax.lax.map(slope, jnp.arange(len(coefficients)))
    return inner.astype(coefficients.dtype), gradient, None


along.defvjp(_forward, _backward)
