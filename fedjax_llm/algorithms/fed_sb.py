"""Fed-SB (Singhal et al. 2025, arXiv:2502.15436): LoRA-SB's square factor, averaged."""

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, Float, Key, PyTree

from ..algorithm import FederatedAlgorithm
from ..local import Batches, ClientInfo, Frozen, Loss, Params, local_steps
from ._averaging import Work
from ._lora import Pair, pairs, with_pairs
from ._part import averaging_part


def fed_sb(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    seed: int = 0,
) -> FederatedAlgorithm:
    """A square R between two fixed factors: what is added is scale * a R b, and R alone is trained
    and sent.

    Up: the difference of R, through `uplink`: rank^2 values a product, whatever its size. Down: R,
    through `downlink`. `a` and `b` have orthonormal columns and rows, and are drawn from `seed`,
    which all sides know, so that they never travel; R is zero at first, so that nothing changes.
    The server's parameters hold a R in the place of `a`: they are LoRA of the same rank, to score
    and to merge. The values of the parameters that the run starts from are not looked at.
    Exact: the mean of the clients' products is a, the mean R, b.
    Departure: the paper takes the singular vectors of a first full gradient, and its values for R,
    where the factors here are random.
    Failures, codecs with memories and the server's optimizer are treated as `fed_avg` treats them.
    Raises `ValueError` for a seed that is not from 0 to 2^32 - 1, where the parameters are not
    LoRA's `a` and `b` alone (with the magnitudes of DoRA what is added is not linear in R), where a
    rank is above a product's inputs or outputs, and for parameters that do not have the structure
    of `like`.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ValueError(f"fed_sb: seed must be an integer from 0 to 4294967295, got {seed!r}.")
    for a, b in pairs(like, who="fed_sb"):
        if a.shape[-1] > min(a.shape[-2], b.shape[-1]):
            raise ValueError(
                f"fed_sb: expected ranks of at most a product's inputs and outputs, as its factors "
                f"are orthonormal, got {a.shape[-1]} for {a.shape[-2]} to {b.shape[-1]}."
            )
    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)

    def squares(params: Params) -> list[Array]:
        return [
            jnp.zeros((*a.shape[:-2], a.shape[-1], a.shape[-1]), a.dtype)
            for a, _ in pairs(params, who="fed_sb")
        ]

    def given(rs: list[Array]) -> Params:
        fixed = bases(structure, seed=seed)
        return with_pairs(structure, [Pair(a @ r, b) for (a, b), r in zip(fixed, rs, strict=True)])

    def loss_of_r(rs: list[Array], frozen: Frozen, batch: Batches) -> Float[Array, ""]:
        return loss(given(rs), frozen, batch)

    train = local_steps(loss_of_r, client_optimizer)

    def update(
        received: PyTree, memory: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, info = train(received, frozen, batches)
        return jax.tree.map(jnp.subtract, trained, received), memory, info

    return averaging_part(
        Work(lambda params: (), update),
        like,
        who="fed_sb",
        take=squares,
        put=lambda params, rs: given(rs),
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
    )


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


def _orthonormal(
    key: Key[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "*layers entries rank"]:
    return jnp.linalg.qr(jr.normal(key, shape))[0]
