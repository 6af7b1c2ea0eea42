"""Low-rank adaptation of frozen kernels (Hu et al. 2021, arXiv:2106.09685), and two variants."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from fedjax_compression.checks import check_integer, check_kind
from flax import nnx
from jaxtyping import Array, Float, Key

from ..checks import check_scalar
from ..models.layers import Linear
from .contract import Adapted, Adapter, Added
from .low_rank import Directed, LowRank, column_norms
from .ranks import Ranks, unpadded
from .targets import (
    Targets,
    by_pattern,
    check_matched,
    check_pattern,
    projections,
    read_targets,
    select,
)

Patterns = Mapping[str, int | float] | Mapping[str, int] | str | None


def lora(
    *,
    rank: int,
    alpha: float | int | None = None,
    targets: Sequence[str] | str | None = None,
    rank_pattern: Patterns = None,
    alpha_pattern: Patterns = None,
) -> Adapter:
    r"""Add (alpha / rank) A B to the kernel of each target projection, and train only A and B.

    A, `[inputs, rank]`, starts Gaussian with variance 1 / inputs. B, `[rank, outputs]`, starts at
    zero, so the initial model computes the same function. Trained entries per target and layer:
    rank * (inputs + outputs). If the layers of a projection have different ranks, A and B are
    trained and sent as one stack per rank; zero padding exists only inside a step.

    Args:
        rank: Rank of A B, at least 1.
        alpha: Numerator of the scale, above 0; default 2 * rank.
        targets: The projections to adapt, named as in PEFT; default all of the model's blocks.
            A sequence of names, or one text with commas between them. A name is a projection
            (`q_proj`) or the module name in a checkpoint, whole or its end (`c_attn`,
            `model.layers.3.mlp.up_proj`). A text that is no list of names is one regular expression
            that must match the whole module name (`.*layers\.[01]\..*_proj`).
        rank_pattern: Other ranks by regular expression for the end of a module name, as in PEFT;
            the first match counts. A mapping, or text such as `k_proj=4;layers.0.*=16`. Default:
            none.
        alpha_pattern: Other values of alpha, in the same form. Default: none.

    Returns:
        The adapter, for decoders and encoders. The parameters of a target are `a` and `b`, stacked
        over layers.

    Raises:
        ValueError: For a rank below 1, an alpha that is not a finite number above 0, an invalid
            pattern or an unknown target; when attached, for a target that the model lacks, and a
            pattern that is used for none of the adapted modules.
        TypeError: If `targets` or a pattern is of another kind; when attached, if the model is not
            a `Decoder`, an `Encoder` or a `Classifier`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import lora
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=lora(rank=3, targets="q_proj"))
        >>> jax.tree.map(jnp.shape, task.params)
        {'blocks': {'attention': {'q_proj': {'adapter': {'a': (2, 8, 3), 'b': (2, 3, 8)}}}}}

    """
    return _low_rank(
        _read("lora", rank, alpha, targets, rank_pattern, alpha_pattern),
        lambda alpha, rank: alpha / rank,
        lambda linear, a, b, **kwargs: LowRank(a, b, **kwargs),
    )


def rslora(
    *,
    rank: int,
    alpha: float | int | None = None,
    targets: Sequence[str] | str | None = None,
    rank_pattern: Patterns = None,
    alpha_pattern: Patterns = None,
) -> Adapter:
    """LoRA with the scale alpha / sqrt(rank), so that the size of a step does not shrink with rank.

    Rank-stabilised LoRA (Kalajdzievski 2023, arXiv:2312.03732).

    Args:
        rank: Rank of A B, at least 1.
        alpha: Numerator of the scale, above 0; default 2 * rank.
        targets: The projections to adapt, as in `lora`; default all of the model's blocks.
        rank_pattern: Other ranks by pattern, as in `lora`; default none.
        alpha_pattern: Other values of alpha by pattern, as in `lora`; default none.

    Returns:
        The adapter, with the parameters of `lora`.

    Raises:
        ValueError: As `lora`.
        TypeError: As `lora`.

    Example:
        >>> import jax, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import rslora
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> adapter = rslora(rank=4, alpha=6, targets="v_proj")
        >>> task = language_model(config, key=jr.key(0), adapter=adapter)
        >>> task.model(task.params, task.frozen).blocks.attention.v_proj.adapter.scale
        3.0

    """
    return _low_rank(
        _read("rslora", rank, alpha, targets, rank_pattern, alpha_pattern),
        lambda alpha, rank: alpha / rank**0.5,
        lambda linear, a, b, **kwargs: LowRank(a, b, **kwargs, stabilised=True),
    )


def dora(
    *,
    rank: int,
    alpha: float | int | None = None,
    targets: Sequence[str] | str | None = None,
    rank_pattern: Patterns = None,
    alpha_pattern: Patterns = None,
) -> Adapter:
    """LoRA of a kernel's direction, with a trained magnitude for each output.

    DoRA (Liu et al. 2024, arXiv:2402.09353). Each output's weights are normalised after A B is
    added, and multiplied by the magnitude. Magnitudes start as the norms of the kernel's columns,
    so the initial model computes the same function. If only some layers of a projection are
    targets, the others keep their kernel.
    Cost: each step computes A B of each target in full, for the norms.

    Args:
        rank: Rank of A B, at least 1.
        alpha: Numerator of the scale alpha / rank, above 0; default 2 * rank.
        targets: The projections to adapt, as in `lora`; default all of the model's blocks.
        rank_pattern: Other ranks by pattern, as in `lora`; default none.
        alpha_pattern: Other values of alpha by pattern, as in `lora`; default none.

    Returns:
        The adapter, with the parameters of `lora` and a `magnitude`, `[layers, outputs]`.

    Raises:
        ValueError: As `lora`.
        TypeError: As `lora`.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from fedjax_llm import DecoderConfig, language_model
        >>> from fedjax_llm.adapters import dora
        >>> config = DecoderConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        >>> task = language_model(config, key=jr.key(0), adapter=dora(rank=3, targets="up_proj"))
        >>> jax.tree.map(jnp.shape, task.params["blocks"]["mlp"]["up_proj"]["adapter"])
        {'a': (2, 8, 3), 'b': (2, 3, 12), 'magnitude': (2, 12)}

    """
    return _low_rank(
        _read("dora", rank, alpha, targets, rank_pattern, alpha_pattern),
        lambda alpha, rank: alpha / rank,
        lambda linear, a, b, **kwargs: Directed(
            a, b, column_norms(linear.weights(jnp.float32)), **kwargs
        ),
    )


class _Settings(NamedTuple):
    who: str
    rank: int
    alpha: float | int
    targets: Targets
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]


def _read(
    who: str,
    rank: int,
    alpha: float | int | None,
    targets: Sequence[str] | str | None,
    rank_pattern: Patterns,
    alpha_pattern: Patterns,
) -> _Settings:
    check_integer(rank, who=who, name="rank", at_least=1)
    ranks = _patterns(rank_pattern, int, who=who, name="rank_pattern")
    alphas = _patterns(alpha_pattern, float, who=who, name="alpha_pattern")
    for value in ranks.values():
        check_integer(value, who=who, name="rank_pattern", at_least=1)
    for value in alphas.values():
        check_scalar(value, who=who, name="alpha_pattern", above=0)
    if alpha is None:
        alpha = 2 * rank
    check_scalar(alpha, who=who, name="alpha", above=0)
    return _Settings(who, rank, alpha, read_targets(targets, who=who), ranks, alphas)


def _patterns(
    given: Patterns, kind: Callable[[Any], Any], *, who: str, name: str
) -> dict[str, Any]:
    """Values by regular expression, from a mapping or from text."""
    if isinstance(given, str):
        try:
            pairs = (pair.rpartition("=") for pair in given.split(";") if pair.strip())
            given = {pattern.strip(): kind(value) for pattern, _, value in pairs}
        except ValueError:
            raise ValueError(
                f"{who}: {name}: expected text such as k_proj=4;layers.0.*=16, got {given!r}."
            ) from None
    if given is None:
        return {}
    expected = "a mapping from pattern to number, or text"
    check_kind(given, Mapping, who=who, name=name, expected=expected)
    for pattern in given:
        check_pattern(pattern, who=who, name=name)
    return dict(given)


def _low_rank(
    settings: _Settings,
    scale_of: Callable[[float, int], float],
    build: Callable[..., LowRank],
) -> Adapter:
    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        who = settings.who
        selected = select(settings.targets, model, who=who)
        found = projections(model, who=who)
        modules = [
            name
            for projection in found
            for name, adapted in zip(
                projection.names, selected.get(projection.path, ()), strict=False
            )
            if adapted
        ]
        check_matched(settings.ranks, modules, who=who, name="rank_pattern")
        check_matched(settings.alphas, modules, who=who, name="alpha_pattern")
        index = 0
        for projection in found:
            if projection.path not in selected:
                continue
            ranks = [
                by_pattern(settings.ranks, name, settings.rank) if adapted else 0
                for name, adapted in zip(projection.names, selected[projection.path], strict=True)
            ]
            alphas = [
                by_pattern(settings.alphas, name, settings.alpha) for name in projection.names
            ]
            scales = [scale_of(a, r) if r else 0.0 for a, r in zip(alphas, ranks, strict=True)]
            projection.module.adapter = build(
                projection.module,
                *initial_factors(jr.fold_in(key, index), projection.module, ranks),
                scale=shared_scale(scales),
                ranks=tuple(ranks),
            )
            index += 1

    def restate(key: Key[Array, ""], model: nnx.Module, adapted: Adapted) -> Adapted:
        return unpadded(adapted, mixed_ranks(model))

    return Adapter(attach, Added, restate)


def initial_factors(
    key: Key[Array, ""], linear: Linear, ranks: Sequence[int]
) -> tuple[Float[Array, "*layers in rank"], Float[Array, "*layers rank out"]]:
    """Draw A and B of a projection's layers, padded with zeros to the largest rank."""
    *layers, inputs, outputs = linear.weights(jnp.float32).shape
    most = max(ranks)
    a = jr.normal(key, (*layers, inputs, most)) * inputs**-0.5
    if len(set(ranks)) > 1:
        a = a * (np.arange(most) < np.array(ranks)[:, None])[:, None]
    return a, jnp.zeros((*layers, most, outputs))


def mixed_ranks(model: nnx.Module) -> dict[tuple[Any, ...], Ranks]:
    """Find the LoRA modules whose layers have different ranks: the ranks by path."""
    return {
        (*path,): Ranks(module.ranks)
        for path, module in nnx.iter_graph(model)
        if isinstance(module, LowRank) and len(set(module.ranks)) > 1
    }


def shared_scale(scales: Sequence[float]) -> float | Float[Array, " layers"]:
    """One number if all layers have the same scale, else an array with one for each layer."""
    return float(scales[0]) if len(set(scales)) == 1 else jnp.array(scales, jnp.float32)
