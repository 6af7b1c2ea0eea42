"""Modules that add a low-rank matrix to a kernel: LoRA, and DoRA with a trained magnitude."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..models.layers import Linear
from .contract import Added


class Constant(nnx.Variable):
    """An array of an adapter that is not trained."""


class LowRank(nnx.Module):
    """x @ kernel + bias + scale * x @ a @ b (arXiv:2106.09685).

    `ranks` has the rank of each layer: entries of `a` and `b` beyond it are zero. `scale` is one
    number, or an array with one for each layer. `stabilised` marks the scale alpha / sqrt(rank).
    """

    def __init__(
        self,
        a: Float[Array, "*layers in rank"],
        b: Float[Array, "*layers rank out"],
        *,
        scale: float | Float[Array, " layers"],
        ranks: tuple[int, ...],
        stabilised: bool = False,
    ) -> None:
        self.a, self.b = Added(a), Added(b)
        self.ranks, self.stabilised = ranks, stabilised
        self.scale = scale if isinstance(scale, float) else Constant(scale)

    def __call__(self, linear: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        y = linear.plain(x)
        return y + self.added(x).astype(y.dtype)

    def added(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        """Compute scale * x @ a @ b, scaling the narrow factor rather than the wide result."""
        return (x @ self.a[...]) * self.scale_of_layers() @ self.b[...]

    def change(self) -> Float[Array, "*layers in out"]:
        """Compute scale * a @ b: what the adapter adds to the kernel."""
        scale = jnp.asarray(self.scale_of_layers())
        return scale[..., None, None] * (self.a[...] @ self.b[...])

    def merged(self, linear: Linear) -> tuple[Array, Array | None]:
        """Compute the kernel and the bias of the equivalent plain layer."""
        bias = None if linear.bias is None else linear.bias[...]
        return linear.weights(jnp.float32) + self.change(), bias

    def scale_of_layers(self) -> float | Float[Array, "..."]:
        """Return the scale: one number for all layers, or one for each."""
        return self.scale if isinstance(self.scale, float) else self.scale[...]


class Directed(LowRank):
    """x @ (magnitude * W' / |W'|) + bias with W' = kernel + scale * a @ b, where |.| are the norms
    of its columns (Liu et al. 2024, arXiv:2402.09353, eq. 5).

    The gradient treats the norms as constants, as in section 4.3 of the paper.
    """

    def __init__(
        self,
        a: Float[Array, "*layers in rank"],
        b: Float[Array, "*layers rank out"],
        magnitude: Float[Array, "*layers out"],
        *,
        scale: float | Float[Array, " layers"],
        ranks: tuple[int, ...],
        stabilised: bool = False,
    ) -> None:
        super().__init__(a, b, scale=scale, ranks=ranks, stabilised=stabilised)
        self.magnitude = Added(magnitude)

    def __call__(self, linear: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        bias = None if linear.bias is None else linear.bias[...].astype(x.dtype)
        y = x @ linear.weights(x.dtype)
        y = (y + self.added(x).astype(y.dtype)) * self._factor(linear).astype(y.dtype)
        return y if bias is None else y + bias

    def merged(self, linear: Linear) -> tuple[Array, Array | None]:
        """Compute the kernel and the bias of the equivalent plain layer."""
        kernel, bias = super().merged(linear)
        return kernel * self._factor(linear)[..., None, :], bias

    def _factor(self, linear: Linear) -> Float[Array, "*layers out"]:
        changed = linear.weights(jnp.float32) + self.change()
        return self.magnitude[...] / jax.lax.stop_gradient(column_norms(changed))


def column_norms(kernel: Float[Array, "*layers in out"]) -> Float[Array, "*layers out"]:
    """Compute the Euclidean norm of each output's weights; 1 for a column of zeros."""
    squares = (kernel * kernel).sum(axis=-2)
    return jnp.where(squares > 0, jnp.sqrt(squares), 1.0)
