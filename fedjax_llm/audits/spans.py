"""Candidates in the span of a gradient, as in the tests of DAGER (arXiv:2405.15586)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from fedjax_compression.checks import check_integer, check_kind, check_number
from fedjax_compression.errors import message
from flax import nnx
from jaxtyping import Float, PyTree
from numpy.typing import ArrayLike

from ..models import Decoder, DecoderConfig, from_params
from ..models.layers import Block
from .arrays import as_float64


class Span(NamedTuple):
    """Distances of candidates from the span of a gradient.

    Attributes:
        distances: Distance of each candidate from the span over the candidate's norm, from 0 to 1,
            float64, `[candidates]`.
        rank: Dimension of the span.

    """

    distances: Float[np.ndarray, " candidates"]
    rank: int


def span_distances(
    candidates: ArrayLike,
    gradient: ArrayLike,
    *,
    rank_tolerance: float | int = 1e-5,
    max_rank: int | None = None,
) -> Span:
    """Measure how far each candidate input of a linear layer is from the span of its gradient.

    The gradient of a kernel `[inputs, outputs]` is the sum over tokens of the input times the
    gradient of the output, so that its columns are combinations of the inputs. With fewer tokens
    than inputs and outputs, the true inputs lie in that span and other vectors do not: one at
    random is at a distance of about sqrt(1 - rank / inputs) (Petrov et al. 2024, arXiv:2405.15586,
    whose kernels are transposed). With as many tokens as outputs or more, the span has a dimension
    for each output; true inputs are near it and no longer in it. The scale of the gradient does
    not matter, so that the update of one SGD step serves as well.

    Three forms of the same test:
        full training: candidates from `first_layer_inputs`, the gradient of the first query kernel;
        LoRA's A `[inputs, rank]`: the same candidates; zero while B is zero, as in the first step;
        LoRA's B `[rank, outputs]`: candidates times A, whose rank bounds the tokens.

    What is not revealed: a token whose output has no gradient, as the query of the first token of
    a text, which attends to itself alone. With learned positions, a combination of true inputs may
    be a candidate too: of tokens a and b at one place and a at another, b at the other.

    Args:
        candidates: Possible inputs, `[candidates, inputs]`. A candidate of zeros is at distance 1.
        gradient: Decoded gradient or update of the kernel, `[inputs, outputs]`, in any scale.
        rank_tolerance: Singular values count down to this share of the largest, above 0 and below
            1. Default: 1e-5, for gradients in float32; 1e-12 suits float64. An update made as a
            difference of parameters has their rounding, and needs more at a small learning rate.
        max_rank: Most dimensions, the largest singular values first, such as the number of tokens
            where a codec's noise fills all dimensions. Default: no limit.

    Returns:
        The distances and the dimension of the span. A gradient of zeros has rank 0, and every
        candidate is at distance 1 from it.

    Raises:
        ValueError: For shapes that do not fit, a NaN or an infinity, a value out of bounds, and for
            a span of all dimensions, from which nothing is at a distance.

    Example:
        >>> import numpy as np
        >>> from fedjax_llm.audits import span_distances
        >>> inputs = np.array([[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
        >>> gradient = inputs.T @ np.array([[0.5, 1.0, 2.0], [3.0, -1.0, 0.0]])
        >>> other = np.array([[0.0, 0.0, 0.0, 1.0]])
        >>> span = span_distances(np.concatenate([inputs, other]), gradient)
        >>> span.rank, span.distances.round(9).tolist()
        (2, [0.0, 0.0, 1.0])

    """
    who = "span_distances"
    check_number(rank_tolerance, who=who, name="rank_tolerance", above=0, below=1)
    if max_rank is not None:
        check_integer(max_rank, who=who, name="max_rank", at_least=1)
    rows = as_float64(candidates, "candidates", "inputs", who=who, name="candidates")
    kernel = as_float64(gradient, "inputs", "outputs", who=who, name="gradient")
    width = rows.shape[1]
    if len(kernel) != width:
        expected = f"numbers [{width}, outputs], as candidates have {width} inputs"
        raise ValueError(message(who, "gradient", expected, list(kernel.shape)))
    basis = span_basis(
        kernel, rank_tolerance=rank_tolerance, max_rank=max_rank, who=who, name="gradient"
    )
    return Span(distances_from(rows, basis), basis.shape[1])


def span_basis(
    kernel: Float[np.ndarray, "inputs outputs"],
    *,
    rank_tolerance: float | int,
    max_rank: int | None,
    who: str,
    name: str,
) -> Float[np.ndarray, "inputs rank"]:
    """Compute an orthonormal basis of the span of a gradient's columns.

    Args:
        kernel: The gradient, float64.
        rank_tolerance: As for `span_distances`.
        max_rank: As for `span_distances`.
        who: The function that was called.
        name: The argument that has the gradient.

    Returns:
        The basis.

    Raises:
        ValueError: For a span of all dimensions.

    """
    left, values, _ = np.linalg.svd(kernel, full_matrices=False)
    rank = int((values > rank_tolerance * values[0]).sum())
    rank, width = rank if max_rank is None else min(rank, max_rank), len(kernel)
    if rank == width:
        raise ValueError(
            f"{who}: {name}: expected a rank below its {width} inputs, got {rank}, whose span "
            "holds every candidate; give max_rank, or candidates of a wider layer."
        )
    return left[:, :rank]


def distances_from(
    rows: Float[np.ndarray, "candidates inputs"], basis: Float[np.ndarray, "inputs rank"]
) -> Float[np.ndarray, " candidates"]:
    """Compute the distance of each row from a span over the row's norm; 1 for rows of zeros."""
    outside = rows - (rows @ basis) @ basis.T
    norms = np.linalg.norm(rows, axis=1)
    distances = np.linalg.norm(outside, axis=1) / np.where(norms > 0, norms, 1.0)
    return np.where(norms > 0, distances, 1.0)


def first_layer_inputs(
    config: DecoderConfig, params: PyTree, *, position: int = 0
) -> Float[np.ndarray, "vocab width"]:
    """Compute what the first attention layer of a decoder reads for each token of the vocabulary.

    These are the candidates of `span_distances`: the token's embedding, with the position's if
    positions are learned, after the first block's norm. Whoever has the model can compute them.

    Args:
        config: The decoder's sizes.
        params: All its parameters, in the structure that `from_params` takes.
        position: Position of the token, at least 0; it matters for learned positions alone.
            Default: 0.

    Returns:
        One row for each token id, float64, `[vocab, width]`.

    Raises:
        TypeError: For a `config` of another kind.
        ValueError: For `params` of other shapes, and a position that the model does not have.

    Example:
        >>> import numpy as np
        >>> from flax import nnx
        >>> from fedjax_llm.audits import first_layer_inputs
        >>> from fedjax_llm.models import Decoder, DecoderConfig
        >>> config = DecoderConfig(vocab_size=16, hidden_size=8, num_attention_heads=2)
        >>> params = nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(0)), nnx.Param))
        >>> rows = first_layer_inputs(config, params)
        >>> rows.shape, np.round((rows**2).mean(axis=1), 3).min()  # of root mean square one
        ((16, 8), np.float64(1.0))

    """
    who = "first_layer_inputs"
    check_kind(config, DecoderConfig, who=who, name="config", expected="a DecoderConfig")
    most = config.max_position_embeddings - 1 if config.position_embeddings == "learned" else None
    check_integer(position, who=who, name="position", at_least=0, at_most=most)
    return inputs_of(from_params(config, params), position)


def inputs_of(model: Decoder, position: int) -> Float[np.ndarray, "vocab width"]:
    """Compute what the first attention layer of a decoder reads for each token, in float64."""
    tokens = jnp.arange(model.config.vocab_size)[:, None]  # rows of one token: positions are few
    hidden = block(model, 0).input_norm(model._embed(tokens, jnp.full_like(tokens, position)))
    return np.asarray(hidden[:, 0], np.float64)


def block(model: Decoder, layer: int) -> Block:
    """Take one block out of a decoder's stack."""
    graph, state = nnx.split(model.blocks)
    return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[layer], state))
