"""Optimizers of clients that Optax does not have in this form."""

from typing import Any

import jax
import optax
from fedjax_compression.checks import check_number
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as optax_muon


def muon(
    learning_rate: float | int = 0.02,
    *,
    momentum: float | int = 0.95,
    weight_decay: float | int = 0.0,
) -> optax.GradientTransformation:
    """Muon for stacked matrices, AdamW for everything else.

    Leaves of at least three axes, such as the kernels of a decoder's blocks or of an adapter,
    are stacks of matrices: each matrix moves along its orthogonalised momentum (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon). All other leaves, such as embedding, head and norms,
    get AdamW at the same rate.

    Args:
        learning_rate: Learning rate of both, above 0. Default: 0.02.
        momentum: Muon's momentum, from 0 to below 1. Default: 0.95.
        weight_decay: Weight decay of both, at least 0. Default: 0.

    Returns:
        The Optax optimizer.

    Raises:
        ValueError: For a hyper-parameter out of range. From `init`, for parameters without a leaf
            of three axes.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> from fedjax_llm import muon
        >>> optimizer = muon(0.1)
        >>> params = {"blocks": jnp.zeros((1, 2, 2)), "norm": jnp.zeros(2)}
        >>> gradient = {"blocks": jnp.array([[[3.0, 0.0], [0.0, 9.0]]]), "norm": jnp.ones(2)}
        >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        >>> np.abs(np.round(updates["norm"], 3)).tolist()  # AdamW's first step
        [0.10000000149011612, 0.10000000149011612]

    """
    check_number(learning_rate, who="muon", name="learning_rate", above=0)
    check_number(momentum, who="muon", name="momentum", at_least=0, below=1)
    check_number(weight_decay, who="muon", name="weight_decay", at_least=0)
    partition = optax.partition(
        {
            "matrices": optax_muon(
                learning_rate,
                beta=momentum,
                weight_decay=weight_decay,
                muon_weight_dimension_numbers=stacked_matrices,
            ),
            # not left to Optax's Muon, whose AdamW has Nesterov momentum
            "others": optax.adamw(learning_rate, weight_decay=weight_decay),
        },
        lambda params: jax.tree.map(
            lambda leaf: "matrices" if len(leaf.shape) > 2 else "others", params
        ),
    )

    def init(params: PyTree) -> optax.OptState:
        shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
        if all(len(shape) < 3 for shape in shapes):
            raise ValueError(
                "muon: params: expected stacked matrices, leaves of at least three axes, got "
                f"shapes {shapes}; use adamw."
            )
        return partition.init(params)

    return optax.GradientTransformationExtraArgs(init, partition.update)


def stacked_matrices(params: PyTree) -> PyTree:
    """Compute Muon's matrix axes for each leaf: the last two if it has at least three."""

    def axes(leaf: Any) -> MuonDimensionNumbers | None:
        last = len(leaf.shape) - 1
        return MuonDimensionNumbers(last - 1, last) if last >= 2 else None

    return jax.tree.map(axes, params)
