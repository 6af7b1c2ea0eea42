"""Fed-SB (Singhal et al. 2025, arXiv:2502.15436): LoRA-SB's square factor, averaged."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, Float, Key, PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import (
    Batches,
    ClientInfo,
    Frozen,
    Loss,
    Params,
    full_gradient,
    local_steps,
)
from ..shared.averaging import Work
from ..shared.base_changes import changed, kernel_tree
from ..shared.checks import check_positive
from ..shared.partial_averaging import averaging_part
from .pairs import Pair, cut, named_pairs, pairs, with_pairs


def fed_sb(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    seed: int | None = 0,
) -> FederatedAlgorithm:
    """A square R between two fixed factors: what is added is scale * a R b, and R alone is trained
    and sent.

    Up: the difference of R, through `uplink`: rank^2 values a product, whatever its size. Down: R,
    through `downlink`. With a `seed` the factors are random, with orthonormal columns and rows, and
    drawn from it, so that they never travel; R is zero at first, so that nothing changes, and the
    values of the parameters that the run starts from are not looked at. With none the factors are
    the start's own, with the columns of `a` and the rows of `b` at length one, and R holds the
    lengths: the paper's are those of `first_step`. They come with the model, before the first
    round, and a client keeps what it was first given, as of `ffa_lora`.
    The server's parameters hold a R in the place of `a`: they are LoRA of the same rank, to score
    and to merge.
    Exact: the mean of the clients' products is a, the mean R, b. A column or row of zeros stays
    what it is: LoRA as it is usually drawn, whose `b` is zero, does not start without a seed.
    Failures, codecs with memories and the server's optimizer are treated as `fed_avg` treats them.
    Raises `ValueError` for a seed that is not from 0 to 2^32 - 1, where the parameters are not
    LoRA's `a` and `b` alone (with the magnitudes of DoRA what is added is not linear in R), where a
    rank is above a product's inputs or outputs, and for parameters that do not have the structure
    of `like`.
    """
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
        raise ValueError(
            f"fed_sb: seed must be None or an integer from 0 to 4294967295, got {seed!r}."
        )
    for a, b in pairs(like, who="fed_sb"):
        if a.shape[-1] > min(a.shape[-2], b.shape[-1]):
            raise ValueError(
                f"fed_sb: expected ranks of at most a product's inputs and outputs, as its factors "
                f"are orthonormal, got {a.shape[-1]} for {a.shape[-2]} to {b.shape[-1]}."
            )
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)

    def squares(params: Params) -> list[Array]:
        held = pairs(params, who="fed_sb")
        if seed is None:
            return [
                (_long(a, -2) * jnp.eye(a.shape[-1]) * _long(b, -1)).astype(a.dtype)
                for a, b in held
            ]
        return [jnp.zeros((*a.shape[:-2], a.shape[-1], a.shape[-1]), a.dtype) for a, _ in held]

    def kept(params: Params) -> list[Pair]:
        """The start's own factors; none where all draw them."""
        return [] if seed is not None else directions(params)

    def given(own: list[Pair], rs: list[Array]) -> Params:
        fixed = own if seed is None else bases(structure, seed=seed)
        return with_pairs(structure, [Pair(a @ r, b) for (a, b), r in zip(fixed, rs, strict=True)])

    def loss_of_r(
        rs: list[Array], held: tuple[list[Pair], Frozen], batch: Batches
    ) -> Float[Array, ""]:
        own, frozen = held
        return loss(given(own, rs), frozen, batch)

    train = local_steps(loss_of_r, client_optimizer)

    def update(
        received: PyTree, own: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, info = train(received, (own, frozen), batches)
        return jax.tree.map(jnp.subtract, trained, received), own, info

    return averaging_part(
        Work(kept, update),
        like,
        who="fed_sb",
        take=squares,
        put=given,
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
    )


def first_step(
    loss: Loss,
    params: Params,
    frozen: Frozen,
    batches: Batches,
    *,
    rate: float,
    scale: float,
) -> Params:
    """LoRA's parameters at the first step of full fine-tuning, for `fed_sb` without a seed
    (LoRA-SB, Ponkshe et al. 2024, arXiv:2411.19557).

    The step is Adam's first, -rate * sign(gradient) of each adapted kernel, the gradient that of
    the mean loss over all targets of the batches, with nothing added yet. What is added is its
    nearest product of the rank, scale * a b, its error the Eckart-Young tail; `scale` is that of
    the adapter's products, alpha / rank. Whose batches these are is the caller's to say.
    Cost: one backward pass, and a dense matrix and its singular values for each product.
    Raises `ValueError` unless rate and scale are above 0, where the parameters are not LoRA's `a`
    and `b` alone, and where a kernel is not an array beside its adapter.
    """
    check_positive(rate, name="rate", who="first_step")
    check_positive(scale, name="scale", who="first_step")
    named = named_pairs(params, who="first_step")
    still = with_pairs(params, [Pair(a, jnp.zeros_like(b)) for _, (a, b) in named])
    zeros = [jnp.zeros((*a.shape[:-1], b.shape[-1]), jnp.float32) for _, (a, b) in named]

    def loss_of_change(change: list[Array], frozen: Frozen, batch: Batches) -> Float[Array, ""]:
        tree = kernel_tree((path, each) for (path, _), each in zip(named, change, strict=True))
        return loss(still, changed(frozen, tree), batch)

    gradient, _ = full_gradient(loss_of_change)(zeros, frozen, batches)
    steps = [
        cut(-rate / scale * jnp.sign(g), a.shape[-1])
        for g, (_, (a, _)) in zip(gradient, named, strict=True)
    ]
    return with_pairs(params, steps)


def check_start(params: Params, arguments: Mapping[str, Any], adapter: str) -> None:
    """Raise `ValueError` where `seed=None` meets factors of zeros, which span nothing."""
    zeros = any(not bool(leaf.any()) for leaf in jax.tree.leaves(params))
    if arguments.get("seed", 0) is None and zeros:
        raise ValueError(
            "fed_sb(seed=None) trains within the factors of the start, expected none "
            f"of zeros, such as those of import_adapter or a seed, got {adapter}."
        )


def directions(params: Params) -> list[Pair]:
    """The pairs with the columns of `a` and the rows of `b` at length one, or zero."""

    def unit(leaf: Array, axis: int) -> Float[Array, "..."]:
        long = _long(leaf, axis)
        return leaf / jnp.where(long > 0, long, 1.0)

    return [Pair(unit(a, -2), unit(b, -1)) for a, b in pairs(params, who="fed_sb")]


def bases(like: Params, *, seed: int) -> list[Pair]:
    """The fixed factors of each pair: `a` with orthonormal columns, `b` with orthonormal rows."""
    key = jr.key(seed, impl="threefry2x32")
    return [
        Pair(
            _orthonormal(jr.fold_in(key, 2 * index), a.shape),
            jnp.swapaxes(
                _orthonormal(
                    jr.fold_in(key, 2 * index + 1), (*b.shape[:-2], b.shape[-1], b.shape[-2])
                ),
                -1,
                -2,
            ),
        )
        for index, (a, b) in enumerate(pairs(like, who="fed_sb"))
    ]


def _long(leaf: Array, axis: int) -> Float[Array, "..."]:
    """Lengths along an axis, which stays."""
    return jnp.linalg.norm(leaf.astype(jnp.float32), axis=axis, keepdims=True)


def _orthonormal(
    key: Key[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "*layers entries rank"]:
    return jnp.linalg.qr(jr.normal(key, shape))[0]
