"""Fed-SB (Singhal et al. 2025, arXiv:2502.15436): federated averaging of LoRA-SB's square R."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from fedjax_compression import Compressor
from fedjax_compression.checks import check_number
from fedjax_compression.ops.decompositions import orthonormal
from jaxtyping import Array, Float, Key, PyTree

from ...algorithm import FederatedAlgorithm
from ...checks import check_codecs, check_optimizer
from ...client_training import (
    Batches,
    ClientInfo,
    Frozen,
    Loss,
    Params,
    full_gradient,
    local_steps,
)
from ...schedules import Progress, check_client_optimizer, needs_round
from ..shared.averaging import Work
from ..shared.base_changes import changed, kernel_tree
from ..shared.checks import check_like, check_loss
from ..shared.partial_averaging import averaging_part
from .pairs import Pair, named_pairs, pairs, svd_factors, with_pairs


def fed_sb(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    population: float | int | None = None,
    seed: int | None = 0,
) -> FederatedAlgorithm:
    """Train and send only a square matrix R between two fixed factors: the change is scale * a R b.

    Up: the difference of R, through `uplink`: rank^2 values per product, whatever its size. Down:
    R, through `downlink`. The factors `a` and `b` never travel. The server's parameters store a R
    in the place of `a`, so that they are LoRA parameters of the same rank, to score and to merge.

    With a `seed`, `a` has random orthonormal columns and `b` random orthonormal rows, drawn from
    the seed; R starts at zero, so that training starts from the base, and the values of the initial
    parameters are ignored. With `seed=None` the factors are those of the initial parameters, with
    the columns of `a` and the rows of `b` scaled to length one; R starts as the diagonal of the
    lengths, so that training starts from the initial product. The paper initialises them with
    `first_step`. Clients have these factors before the first round and keep them.

    Exact: the mean of the clients' products is a (mean R) b. A zero column of `a` or zero row
    of `b` stays zero, so that LoRA's usual start, with `b` zero, needs a seed.

    Failures, codecs with memory and the server optimizer are handled as in `fed_avg`.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        like: Structure of the LoRA parameters (arrays or `ShapeDtypeStruct`s): factors `a` and `b`
            only. DoRA is refused, as its change is not linear in R.
        client_optimizer: Optax optimizer of the local steps on R; its state is reset every round.
        server_optimizer: Optax optimizer whose gradient is minus the mean difference; default: SGD
            with learning rate 1.
        uplink: Codec of the difference of R; default: uncompressed.
        downlink: Codec of R; default: uncompressed.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.
        seed: Integer from 0 to 2^32 - 1 that draws the factors, or None for those of the initial
            parameters; default 0.

    Returns:
        The algorithm.

    Raises:
        TypeError: If `loss`, `like`, an optimizer or a codec is of the wrong kind.
        ValueError: For another seed, for a rank above a product's inputs or outputs, or if `like`
            has leaves other than LoRA factors; from `init`, if the parameters do not have the
            structure of `like`.

    Example:
        >>> import jax.numpy as jnp, numpy as np, optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm import ledger
        >>> from fedjax_llm.algorithms import fed_sb
        >>> from fedjax_llm.data import Batch
        >>> like = {"adapter": {"a": jnp.zeros((6, 2)), "b": jnp.zeros((2, 9))}}
        >>> def loss(params, frozen, batch):
        ...     return (params["adapter"]["a"] @ params["adapter"]["b"]).mean()
        >>> algorithm = fed_sb(loss, like, client_optimizer=optax.sgd(0.1))
        >>> tokens = np.zeros((1, 1, 4), int)  # one local step
        >>> down, up = ledger.messages(algorithm, like, Batch(tokens, tokens, tokens == 0))
        >>> wire.nbytes(up) - wire.HEADER_BYTES  # 2 * 2 float32 of R
        16

    """
    check_loss(loss, who="fed_sb")
    check_like(like, who="fed_sb")
    check_optimizer(client_optimizer, who="fed_sb", name="client_optimizer")
    check_optimizer(server_optimizer, who="fed_sb", name="server_optimizer", optional=True)
    check_codecs(who="fed_sb", known=("uplink",), uplink=uplink, downlink=downlink)
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**32):
        raise ValueError(
            f"fed_sb: seed: expected None or an integer from 0 to 4294967295, got {seed!r}."
        )
    for a, b in pairs(like, who="fed_sb"):
        if a.shape[-1] > min(a.shape[-2], b.shape[-1]):
            raise ValueError(
                f"fed_sb: params: expected a rank of at most a product's inputs and outputs, "
                f"got rank {a.shape[-1]} for {a.shape[-2]} inputs and {b.shape[-1]} outputs; "
                "orthonormal factors need a lower rank."
            )

    def squares(params: Params) -> list[Array]:
        initial = pairs(params, who="fed_sb")
        if seed is None:
            return [
                (_norms(a, -2) * jnp.eye(a.shape[-1]) * _norms(b, -1)).astype(a.dtype)
                for a, b in initial
            ]
        return [jnp.zeros((*a.shape[:-2], a.shape[-1], a.shape[-1]), a.dtype) for a, _ in initial]

    def stored_factors(params: Params) -> list[Pair]:
        """The factors a client keeps: none where a seed draws them."""
        return [] if seed is not None else directions(params)

    def lora_params(stored: list[Pair], rs: list[Array]) -> Params:
        fixed = stored if seed is None else bases(like, seed=seed)
        return with_pairs(like, [Pair(a @ r, b) for (a, b), r in zip(fixed, rs, strict=True)])

    def loss_of_r(
        rs: list[Array], fixed: tuple[list[Pair], Frozen], batch: Batches
    ) -> Float[Array, ""]:
        stored, frozen = fixed
        return loss(lora_params(stored, rs), frozen, batch)

    r_like = jax.eval_shape(squares, like)
    check_client_optimizer(client_optimizer, r_like, who="fed_sb")
    train = local_steps(loss_of_r, client_optimizer)

    def update(
        received: PyTree, stored: PyTree, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        trained, info = train(received, (stored, frozen), batches, progress)
        return jax.tree.map(jnp.subtract, trained, received), stored, info

    return averaging_part(
        Work(stored_factors, update, needs_round(client_optimizer, r_like)),
        like,
        who="fed_sb",
        take=squares,
        put=lora_params,
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
        population=population,
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
    """LoRA factors of the first step of full fine-tuning, to start `fed_sb(seed=None)` from
    (LoRA-SB, Ponkshe et al. 2024, arXiv:2411.19557).

    The step is Adam's first: -rate * sign(gradient) of each adapted kernel. The gradient is that of
    the mean loss over all targets of the batches, with the adapter's change at zero. The factors
    are those of the nearest product of LoRA's rank, scale * a b; its error is the Eckart-Young
    tail, the singular values left out. The caller chooses whose batches these are.

    Cost: one backward pass per batch, and for each product one dense matrix and its singular value
    decomposition.

    Args:
        loss: `(params, frozen, batch) -> mean loss over the batch's targets`.
        params: LoRA parameters: factors `a` and `b` only, each beside its kernel. Their shapes and
            dtypes are returned; `b` is set to zero for the gradient.
        frozen: Frozen parameters, with an array for each adapted kernel.
        batches: Batches with leaves `[steps, batch, ...]`.
        rate: Length of the step in each entry of a kernel, above 0.
        scale: Factor of the adapter's products, alpha / rank, above 0.

    Returns:
        LoRA parameters like `params`.

    Raises:
        TypeError: If `loss` is not callable.
        ValueError: If `rate` or `scale` is not a finite number above 0, if `params` has leaves
            other than LoRA factors, or if a kernel is not an array beside its adapter.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from fedjax_llm.algorithms.lora.fed_sb import first_step
        >>> from fedjax_llm.data import Batch
        >>> params = {"adapter": {"a": jnp.ones((3, 1)), "b": jnp.zeros((1, 2))}}
        >>> tokens = np.zeros((1, 1, 4), int)
        >>> start = first_step(
        ...     lambda params, frozen, batch: frozen["kernel"].sum(),
        ...     params,
        ...     {"kernel": jnp.ones((3, 2))},
        ...     Batch(tokens, tokens, tokens == 0),
        ...     rate=0.1,
        ...     scale=1.0,
        ... )
        >>> change = start["adapter"]["a"] @ start["adapter"]["b"]
        >>> round(float(change[0, 0]), 4)  # -rate * sign(gradient)
        -0.1

    """
    check_loss(loss, who="first_step")
    check_number(rate, who="first_step", name="rate", above=0)
    check_number(scale, who="first_step", name="scale", above=0)
    named = named_pairs(params, who="first_step")
    no_change = with_pairs(params, [Pair(a, jnp.zeros_like(b)) for _, (a, b) in named])
    zeros = [jnp.zeros((*a.shape[:-1], b.shape[-1]), jnp.float32) for _, (a, b) in named]

    def loss_of_change(change: list[Array], frozen: Frozen, batch: Batches) -> Float[Array, ""]:
        tree = kernel_tree((path, each) for (path, _), each in zip(named, change, strict=True))
        return loss(no_change, changed(frozen, tree), batch)

    gradient, _ = full_gradient(loss_of_change)(zeros, frozen, batches)
    steps = [
        svd_factors(-rate / scale * jnp.sign(g), a.shape[-1])
        for g, (_, (a, _)) in zip(gradient, named, strict=True)
    ]
    return with_pairs(params, steps)


def check_start(params: Params, arguments: Mapping[str, Any], adapter: str) -> None:
    """Raise `ValueError` for `seed=None` where a factor is all zeros, as it would stay zero."""
    zeros = any(not bool(leaf.any()) for leaf in jax.tree.leaves(params))
    if arguments.get("seed", 0) is None and zeros:
        raise ValueError(
            "fed_sb: adapter: expected factors that are not all zero with seed=None, got "
            f"{adapter}; pass a seed, or trained factors through import_adapter."
        )


def directions(params: Params) -> list[Pair]:
    """The pairs with the columns of `a` and the rows of `b` at length one; zeros stay zero."""

    def unit(leaf: Array, axis: int) -> Float[Array, "..."]:
        norms = _norms(leaf, axis)
        return leaf / jnp.where(norms > 0, norms, 1.0)

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


def _norms(leaf: Array, axis: int) -> Float[Array, "..."]:
    """Euclidean norms along an axis, which is kept with size 1."""
    return jnp.linalg.norm(leaf.astype(jnp.float32), axis=axis, keepdims=True)


def _orthonormal(
    key: Key[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "*layers entries rank"]:
    return orthonormal(jr.normal(key, shape))
