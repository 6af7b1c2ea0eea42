"""Low-rank changes of frozen products (Hu et al. 2021, arXiv:2106.09685), and two variants."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from ..models.layers import Linear
from .contract import Adapted, Adapter, Added
from .low_rank import Directed, LowRank, column_norms
from .ranks import Ranks, unpadded
from .targets import Targets, by_pattern, check_pattern, chosen, products, read_targets

Patterns = Mapping[str, int | float] | Mapping[str, int] | str | None


def lora(
    *,
    rank: int,
    alpha: float | int | None = None,
    targets: Sequence[str] | str | None = None,
    rank_pattern: Patterns = None,
    alpha_pattern: Patterns = None,
) -> Adapter:
    r"""Add (alpha / rank) x A B to each target product, and train A and B alone.

    A is Gaussian of variance 1 / inputs, B is zero, so that nothing changes at first. `alpha` is
    twice the rank unless given.
    `targets` are names, as a sequence or with commas between: `q_proj`, or `c_attn` or
    `model.layers.3.mlp.up_proj` as checkpoints name modules; or one regular expression that must
    match the whole name of a module (`.*layers\.[01]\..*_proj`); all products of a model's blocks
    unless given. `rank_pattern` and `alpha_pattern` map regular expressions for the end of a name
    to other ranks and alphas, the first that matches counts; as text, `k_proj=4;layers.0.*=16`.
    All as in PEFT.
    Where layers of a product have different ranks, A and B are one stack for each rank: what is
    trained and sent is what the ranks say, and zeros pad only what a step computes with.
    Raises `ValueError` for a rank below 1, an unreadable pattern, no target, and, when attached,
    for a target that the model does not have.
    """
    return _low_rank(
        _read("lora", rank, alpha, targets, rank_pattern, alpha_pattern),
        lambda alpha, rank: alpha / rank,
        lambda product, a, b, **kwargs: LowRank(a, b, **kwargs),
    )


def rslora(
    *,
    rank: int,
    alpha: float | int | None = None,
    targets: Sequence[str] | str | None = None,
    rank_pattern: Patterns = None,
    alpha_pattern: Patterns = None,
) -> Adapter:
    """LoRA with the scale alpha / sqrt(rank), so that the step's size does not fall with the rank
    (Kalajdzievski 2023, arXiv:2312.03732). Arguments and errors as for `lora`.
    """
    return _low_rank(
        _read("rslora", rank, alpha, targets, rank_pattern, alpha_pattern),
        lambda alpha, rank: alpha / rank**0.5,
        lambda product, a, b, **kwargs: LowRank(a, b, **kwargs, stabilised=True),
    )


def dora(
    *,
    rank: int,
    alpha: float | int | None = None,
    targets: Sequence[str] | str | None = None,
    rank_pattern: Patterns = None,
    alpha_pattern: Patterns = None,
) -> Adapter:
    """LoRA of a kernel's direction, with a trained magnitude for each output (Liu et al. 2024,
    arXiv:2402.09353). Magnitudes start as the norms of the kernel's columns, so that nothing
    changes at first. Arguments and errors as for `lora`.

    Cost: a step computes A B of each target in full, for its norms. Layers of rank 0, beside others
    of the same product, keep their kernel.
    """
    return _low_rank(
        _read("dora", rank, alpha, targets, rank_pattern, alpha_pattern),
        lambda alpha, rank: alpha / rank,
        lambda product, a, b, **kwargs: Directed(
            a, b, column_norms(product.weights(jnp.float32)), **kwargs
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
    ranks, alphas = _patterns(rank_pattern, int, who), _patterns(alpha_pattern, float, who)
    for each in (rank, *ranks.values()):
        if type(each) is not int or each < 1:
            raise ValueError(f"{who}: rank must be an integer of at least 1, got {each!r}.")
    alpha = 2 * rank if alpha is None else alpha
    return _Settings(who, rank, alpha, read_targets(targets, who=who), ranks, alphas)


def _patterns(given: Patterns, kind: Callable[[Any], Any], who: str) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            pairs = (part.rpartition("=") for part in given.split(";") if part.strip())
            given = {pattern.strip(): kind(value) for pattern, _, value in pairs}
        except ValueError:
            raise ValueError(
                f"{who}: a pattern must be text such as k_proj=4;layers.0.*=16, got {given!r}."
            ) from None
    for pattern in given or {}:
        check_pattern(pattern, who=who)
    return dict(given or {})


def _low_rank(
    settings: _Settings,
    scale_of: Callable[[float, int], float],
    build: Callable[..., LowRank],
) -> Adapter:
    def attach(key: Key[Array, ""], model: nnx.Module) -> None:
        layers_of = chosen(settings.targets, model, who=settings.who)
        index = 0
        for product in products(model):
            if product.path not in layers_of:
                continue
            ranks = [
                by_pattern(settings.ranks, name, settings.rank) if taken else 0
                for name, taken in zip(product.names, layers_of[product.path], strict=True)
            ]
            alphas = [by_pattern(settings.alphas, name, settings.alpha) for name in product.names]
            scales = [scale_of(a, r) if r else 0.0 for a, r in zip(alphas, ranks, strict=True)]
            product.module.adapter = build(
                product.module,
                *start(jr.fold_in(key, index), product.module, ranks),
                scale=one(scales),
                ranks=tuple(ranks),
            )
            index += 1

    def restate(key: Key[Array, ""], model: nnx.Module, adapted: Adapted) -> Adapted:
        return unpadded(adapted, uneven(model))

    return Adapter(attach, Added, restate)


def start(
    key: Key[Array, ""], product: Linear, ranks: Sequence[int]
) -> tuple[Float[Array, "*layers in rank"], Float[Array, "*layers rank out"]]:
    """A and B of a product's layers, padded with zeros to the greatest rank."""
    *layers, inputs, outputs = product.weights(jnp.float32).shape
    most = max(ranks)
    a = jr.normal(key, (*layers, inputs, most)) * inputs**-0.5
    if len(set(ranks)) > 1:
        a = a * (np.arange(most) < np.array(ranks)[:, None])[:, None]
    return a, jnp.zeros((*layers, most, outputs))


def uneven(model: nnx.Module) -> dict[tuple[Any, ...], Ranks]:
    """The ranks of layers at the path of each LoRA that does not have the same in all."""
    found = {}
    for path, module in nnx.iter_graph(model):
        if isinstance(module, LowRank) and len(set(module.ranks)) > 1:
            found[(*path,)] = Ranks(module.ranks)
    return found


def one(scales: Sequence[float]) -> float | Float[Array, " layers"]:
    """One number, where all are the same."""
    return float(scales[0]) if len(set(scales)) == 1 else jnp.array(scales, jnp.float32)
