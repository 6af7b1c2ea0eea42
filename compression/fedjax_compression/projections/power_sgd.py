"""PowerSGD: low-rank compression by warm-started subspace iteration.

Vogels, Karimireddy & Jaggi 2019, arXiv:1905.13727, algorithm 1.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from ..checks import check_integer
from ..contract import Compressor, Like, Payload, State, Update
from ..ops.flat import check_floating
from ..ops.principal_basis import orthonormal


class Factors(NamedTuple):
    """Payload of a leaf of matrices, each of which is left @ right.T.

    Attributes:
        left: Left factors with orthonormal columns, [matrices, rows, rank].
        right: Right factors, [matrices, columns, rank].

    """

    left: Float[Array, "matrices rows rank"]
    right: Float[Array, "matrices columns rank"]


def power_sgd(*, rank: int) -> Compressor:
    """Send each matrix as a product of two thin matrices, from one step of subspace iteration.

    The last two dimensions of a leaf are matrices, and the dimensions before them count the
    matrices: a kernel of [layers, in, out] is one matrix per layer. Leaves with fewer than two
    dimensions, and leaves whose factors would be no smaller, are sent unchanged. The step starts
    from the subspace of this sender's last message: P = orth(M Q), Q = M^T P, M ~ P Q^T.

    Guarantees: a projection, so the squared error is never above ||x||^2. Exact to rounding for
    matrices of rank at most `rank`. For a constant matrix, messages converge to the best
    approximation of that rank. Biased, so meant for `error_feedback`. A matrix with a NaN or an
    infinity decodes to no finite entry.

    State: one orthonormal float32 Q per factored leaf. An update that is not finite leaves it
    unchanged, and so does a matrix of zeros. Payload: 4 * rank * (rows + columns) bytes per matrix;
    factors are float32 for any dtype of the update.

    In the paper, workers sum P before it is orthonormalised, in two rounds of communication. They
    then share P, and the mean of their Q belongs to the mean of their matrices. Here each sender
    sends a separate P in one message. Factors of different senders cannot be added; their decoded
    updates can.

    Args:
        rank: Rank of the approximation, at least 1.

    Returns:
        A `Compressor` whose state is a list with one Q per leaf, or () for a leaf sent unchanged.

    Raises:
        ValueError: If `rank` is not a positive integer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_compression import power_sgd, wire
        >>> x = {"kernel": jnp.ones((30, 20)), "bias": jnp.ones(20)}
        >>> c = power_sgd(rank=2)
        >>> payload, state = c.encode(jax.random.key(0), x, c.init(x))
        >>> wire.nbytes(payload)  # header 12, factors 2 * (30 + 20) * 4, bias 80
        492
        >>> bool(jnp.allclose(c.decode(payload, x)["kernel"], 1.0, atol=1e-5))
        True

    """
    check_integer(rank, who="power_sgd", name="rank", at_least=1)

    def is_factored(leaf: Any) -> bool:
        """Whether a leaf is sent as factors."""
        if len(leaf.shape) < 2:
            return False
        rows, columns = leaf.shape[-2:]
        return rank * (rows + columns) < rows * columns and math.prod(leaf.shape) > 0

    def init(like: Like) -> State:
        check_floating(like, who="power_sgd")
        key = jr.key(0, impl="threefry2x32")  # a random start misses no subspace
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
        # sums of large finite entries may overflow
        no_overflow = jnp.isfinite(right).all(axis=(1, 2), keepdims=True)
        usable = finite & no_overflow & (right != 0).any(axis=(1, 2), keepdims=True)
        # orthonormal, so that directions absent from this matrix stay available for the next
        return Factors(left, right), jnp.where(usable, jax.vmap(orthonormal)(right), basis)

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
