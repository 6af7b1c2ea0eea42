"""PowerSGD: low-rank compression by warm-started subspace iteration.

Vogels, Karimireddy & Jaggi 2019, arXiv:1905.13727, algorithm 1.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_floating
from ..ops.principal_basis import orthonormal


class Factors(NamedTuple):
    """Payload of a leaf of matrices, each of which is left @ right.T."""

    left: Float[Array, "matrices rows rank"]
    """Orthonormal columns."""
    right: Float[Array, "matrices columns rank"]


def power_sgd(*, rank: int) -> Compressor:
    """Send each matrix as a product of two thin ones, found by one step of subspace iteration.

    A leaf of two or more dimensions is a batch of matrices, its last two dimensions (a kernel of
    [layers, in, out] is one matrix per layer). Leaves of fewer dimensions, and those whose factors
    would be no smaller, are sent as they are. The step starts from the subspace that the last
    message of this sender found: P = orth(M Q), Q = M^T P, M ~ P Q^T.

    Guarantees: a projection, so the squared error is never above ||x||^2; exact to rounding for
    matrices of rank at most `rank`; for a matrix that stays the same, messages tend to the best
    approximation of that rank; biased, so meant for `error_feedback`. A matrix with a NaN or an
    infinity decodes to no finite entry. State: one orthonormal float32 Q per compressed leaf, which
    an update that is not finite, and a matrix of zeros, leave as it was. Payload: 4 * rank * (rows
    + columns) bytes per matrix, float32 whatever the update's dtype.

    The paper sums P over workers before it orthonormalises, in two rounds of communication, so
    that all share P and the sum of their Q is that of the mean. Here each sender has its own P, in
    one message: factors of different senders do not add up, what they decode to does.
    Raises `ValueError` unless rank is a positive integer.
    """
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"power_sgd: rank must be a positive integer, got {rank!r}.")

    def is_factored(leaf: Any) -> bool:
        if len(leaf.shape) < 2:
            return False
        rows, columns = leaf.shape[-2:]
        return rank * (rows + columns) < rows * columns and math.prod(leaf.shape) > 0

    def init(like: Like) -> State:
        check_floating(like, who="power_sgd")
        key = jr.key(0, impl="threefry2x32")  # any start serves, as long as it is in no subspace
        leaves = jax.tree.leaves(like)
        return [start(jr.fold_in(key, i), leaf) for i, leaf in enumerate(leaves)]

    def start(key: Key[Array, ""], leaf: Any) -> Any:
        if not is_factored(leaf):
            return ()
        *batch, _, columns = leaf.shape
        return jax.vmap(orthonormal)(jr.normal(key, (math.prod(batch), columns, rank)))

    def encode(key: Key[Array, ""], update: Update, state: State) -> tuple[Payload, State]:
        check_floating(update, who="power_sgd")
        leaves, treedef = jax.tree.flatten(update)
        finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves] or [jnp.array(True)]).all()
        coded = [encode_leaf(*pair, finite) for pair in zip(leaves, state, strict=True)]
        payload = jax.tree.unflatten(treedef, [sent for sent, _ in coded])
        return payload, [basis for _, basis in coded]

    def encode_leaf(x: Float[Array, "..."], basis: Any, finite: Any) -> tuple[Any, Any]:
        if not is_factored(x):
            return x, basis
        matrices = x.reshape(-1, *x.shape[-2:]).astype(jnp.float32)
        left = jax.vmap(orthonormal)(_product("bij,bjk->bik", matrices, basis))
        right = _product("bij,bik->bjk", matrices, left)
        # sums of large entries may overflow where none of them does
        known = jnp.isfinite(right).all(axis=(1, 2), keepdims=True)
        learnt = finite & known & (right != 0).any(axis=(1, 2), keepdims=True)
        # orthonormal, so that directions this matrix lacks are not lost to the next
        return Factors(left, right), jnp.where(learnt, jax.vmap(orthonormal)(right), basis)

    def decode(payload: Payload, like: Like) -> Update:
        def decode_leaf(leaf: Any, sent: Any) -> Float[Array, "..."]:
            if not is_factored(leaf):
                return sent
            x = _product("bik,bjk->bij", sent.left, sent.right)
            return x.reshape(leaf.shape).astype(leaf.dtype)

        return jax.tree.map(decode_leaf, like, payload)

    return Compressor(init, encode, decode)


def _product(
    axes: str, a: Float[Array, "b m n"], b: Float[Array, "b p q"]
) -> Float[Array, "b r s"]:
    return jnp.einsum(axes, a, b, precision=jax.lax.Precision.HIGHEST)
