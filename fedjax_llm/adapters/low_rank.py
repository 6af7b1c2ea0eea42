"""Low-rank changes of a product: LoRA's sum, and DoRA's direction with a magnitude of its own."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ..models.layers import Linear
from .contract import Added


class Constant(nnx.Variable):
    """An array that belongs to an adapter and is not trained."""


class LowRank(nnx.Module):
    """x @ kernel + bias + scale * x @ a @ b (arXiv:2106.09685).

    `ranks` are those of the layers, zeros in a and b beyond them; `stabilised` says that the scale
    is alpha / sqrt(rank).
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

    def __call__(self, product: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        y = product.plain(x)
        return y + self.added(x).astype(y.dtype)

    def added(self, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        """Scale * x @ a @ b. The scale meets the thin factor: one pass less over the wide one."""
        return (x @ self.a[...]) * self.scale_of_layers() @ self.b[...]

    def change(self) -> Float[Array, "*layers in out"]:
        """What is added to the kernel."""
        scale = jnp.asarray(self.scale_of_layers())
        return scale[..., None, None] * (self.a[...] @ self.b[...])

    def merged(self, product: Linear) -> tuple[Array, Array | None]:
        """The kernel and the bias that do the same without an adapter."""
        bias = None if product.bias is None else product.bias[...]
        return product.weights(jnp.float32) + self.change(), bias

    def scale_of_layers(self) -> float | Float[Array, "..."]:
        """One for all, or one for each."""
        return self.scale if isinstance(self.scale, float) else self.scale[...]


class Directed(LowRank):
    """x @ (magnitude * W' / |W'|) + bias with W' = kernel + scale * a @ b, |.| the norms of its
    columns (Liu et al. 2024, arXiv:2402.09353, eq. 5).

    The norms are constants to the gradient, as section 4.3 has it.
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

    def __call__(self, product: Linear, x: Float[Array, "tokens in"]) -> Float[Array, "tokens out"]:
        bias = None if product.bias is None else product.bias[...].astype(x.dtype)
        y = x @ product.weights(x.dtype)
        y = (y + self.added(x).astype(y.dtype)) * self._factor(product).astype(y.dtype)
        return y if bias is None else y + bias

    def merged(self, product: Linear) -> tuple[Array, Array | None]:
        """The kernel and the bias that do the same without an adapter."""
        kernel, bias = super().merged(product)
        return kernel * self._factor(product)[..., None, :], bias

    def _factor(self, product: Linear) -> Float[Array, "*layers out"]:
        changed = product.weights(jnp.float32) + self.change()
        return self.magnitude[...] / jax.lax.stop_gradient(column_norms(changed))


def column_norms(kernel: Float[Array, "*layers in out"]) -> Float[Array, "*layers out"]:
    """Euclidean norms of what each output is made of; a column of zeros has norm 1."""
    squares = (kernel * kernel).sum(axis=-2)
    return jnp.where(squares > 0, jnp.sqrt(squares), 1.0)
