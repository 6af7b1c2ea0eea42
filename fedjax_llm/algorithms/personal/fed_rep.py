"""FedRep (Collins et al. 2021, arXiv:2102.07078, algorithm 1): a personal head."""

import re

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from fedjax_compression.checks import check_integer, check_kind
from jaxtyping import Array, PyTree

from ...algorithm import FederatedAlgorithm
from ...checks import check_codecs, check_optimizer
from ...client_training import (
    Batches,
    ClientInfo,
    Frozen,
    Loss,
    Params,
    local_steps,
    local_steps_with_state,
)
from ...precision import cast, master_copy
from ...schedules import Progress, check_client_optimizer, needs_round
from ..shared.averaging import Work
from ..shared.checks import check_like, check_loss
from ..shared.partial_averaging import averaging_part


def fed_rep(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    population: float | int | None = None,
    personal: str | None = None,
    last: int = 0,
    passes: int = 1,
) -> FederatedAlgorithm:
    """Clients share a body and keep a head: each trains its head on the received body, then the
    body under that head.

    The head starts at its initial value, lasts on the client from round to round, and is never
    sent; the server's parameters keep the initial head. A client's `personal` model is the server's
    body with the client's head. The head takes `passes` passes over the round's batches, then the
    body one pass over the same batches, each from a fresh state of `client_optimizer`. The loss
    that is reported is that of the body's steps. The paper's sum over clients is a mean by weight
    here.

    Up: the difference of the body, through `uplink`. Down: the body, through `downlink`. Codecs
    with receiver memory, failed clients and the server optimizer are treated as in `fed_avg`. A
    client whose message was lost or late keeps the head that it trained.
    Cost: passes + 1 times the local steps of `fed_avg`, with gradients of the head or body alone.

    Args:
        loss: The loss to minimise: `(params, frozen, batch) -> mean over the targets that the
            batch's mask counts`.
        like: Structure of the trainable parameters: arrays or ShapeDtypeStructs.
        client_optimizer: Optax optimizer of the local steps of head and body.
        server_optimizer: Optax optimizer of the server's body, which takes minus the mean
            difference as its gradient. Default: SGD at rate 1.
        uplink: Codec of the body's difference. Default: `identity()`.
        downlink: Codec of the body. Default: `identity()`.
        population: Sum of the weights of all clients, sampled or not; an uplink with receiver
            memory (`ef21`, `diana`) requires it. Default: None.
        personal: Regular expression; a leaf with a match anywhere in its path, such as
            `blocks/mlp/up_proj/kernel`, is in the head. Default: None, no leaf.
        last: Number of last layers in the head, counted on the first axis of the leaves under
            `blocks/`. Default: 0.
        passes: Passes of the head over a round's batches, at least 1. Default: 1.

    Returns:
        The algorithm, with `personal`.

    Raises:
        TypeError: For an argument of the wrong kind.
        ValueError: For a `personal` that is no regular expression or matches no path, a `last` that
            exceeds the layers, a head or body without parameters, and `passes` below 1. From
            `init`, for parameters that differ in structure from `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from fedjax_compression import wire
        >>> from fedjax_llm.algorithms import fed_rep
        >>> from fedjax_llm.data import Batch
        >>> from fedjax_llm.ledger import messages
        >>> def loss(params, frozen, batch):
        ...     return (params["body"] ** 2).sum() + (params["head"] ** 2).sum()
        >>> params, ones = {"body": jnp.ones(8), "head": jnp.ones(100)}, jnp.ones((1, 1, 1))
        >>> sgd = optax.sgd(0.1)
        >>> method = fed_rep(loss, params, client_optimizer=sgd, personal="^head$")
        >>> downlink, uplink = messages(method, params, Batch(ones, ones, ones))
        >>> wire.nbytes(downlink), wire.nbytes(uplink)  # the body alone: 4 an entry, header 12
        (44, 44)

    """
    check_loss(loss, who="fed_rep")
    check_like(like, who="fed_rep")
    check_optimizer(client_optimizer, who="fed_rep", name="client_optimizer")
    check_optimizer(server_optimizer, who="fed_rep", name="server_optimizer", optional=True)
    check_codecs(who="fed_rep", known=("uplink",), uplink=uplink, downlink=downlink)
    check_integer(passes, who="fed_rep", name="passes", at_least=1)
    cuts, treedef = _cuts(personal, last, like), jax.tree.structure(like)

    def body_of(params: Params) -> list[Array]:
        leaves = zip(jax.tree.leaves(params), cuts, strict=True)
        return [leaf[:cut] if cut else leaf for leaf, cut in leaves if cut != 0]

    def head_of(params: Params) -> list[Array]:
        leaves = zip(jax.tree.leaves(params), cuts, strict=True)
        return [leaf[cut:] if cut else leaf for leaf, cut in leaves if cut is not None]

    def whole(body: list[Array], head: list[Array]) -> Params:
        lower, upper = iter(body), iter(head)

        def joined(cut: int | None) -> Array:
            if cut:
                return jnp.concatenate([next(lower), next(upper)])
            return next(lower if cut is None else upper)

        return jax.tree.unflatten(treedef, [joined(cut) for cut in cuts])

    def loss_of_head(
        head: list[Array], others: tuple[list[Array], Frozen], batch: Batches
    ) -> Array:
        body, frozen = others
        return loss(cast(whole(body, head), like), frozen, batch)

    def loss_of_body(
        body: list[Array], others: tuple[list[Array], Frozen], batch: Batches
    ) -> Array:
        head, frozen = others
        return loss(cast(whole(body, head), like), frozen, batch)

    body_like, head_like = jax.eval_shape(lambda params: (body_of(params), head_of(params)), like)
    for trained_like in (body_like, head_like):
        check_client_optimizer(client_optimizer, trained_like, who="fed_rep")
    numbered = needs_round(client_optimizer, body_like)
    train_head = local_steps_with_state(loss_of_head, client_optimizer)
    train_body = local_steps(loss_of_body, client_optimizer)

    def update(
        received: PyTree, head: PyTree, frozen: Frozen, batches: Batches, progress: Progress
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        def one_pass(carry: tuple, _: None) -> tuple[tuple, None]:
            head, memory = carry
            trained = train_head(head, memory, (received, frozen), batches, progress)
            return trained[:2], None

        start = head, client_optimizer.init(head)
        (head, _), _ = jax.lax.scan(one_pass, start, length=passes)
        trained, info = train_body(received, (head, frozen), batches, progress)
        return jax.tree.map(jnp.subtract, trained, received), head, info

    return averaging_part(
        Work(lambda params: master_copy(head_of(params)), update, numbered),
        like,
        who="fed_rep",
        take=body_of,
        put=lambda head, body: whole(body, head),
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
        population=population,
    )._replace(personal=lambda params, client_state: whole(body_of(params), client_state.work))


def _cuts(pattern: str | None, last: int, like: Params) -> list[int | None]:
    """Compute for each leaf the first row of the head: 0 for all of the leaf, None for nothing."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    cuts: dict[str, int | None] = dict.fromkeys(leaves)
    stacks = {path: len(leaf) for path, leaf in leaves.items() if path.startswith("blocks/")}
    check_integer(
        last, who="fed_rep", name="last", at_least=0, at_most=min(stacks.values(), default=0)
    )
    if last:
        cuts |= {path: layers - last for path, layers in stacks.items()}
    matches = [] if pattern is None else _matches(pattern, list(leaves))
    cuts |= dict.fromkeys(matches, 0)
    for name, empty in (("head", None), ("body", 0)):
        if all(cut == empty for cut in cuts.values()):
            raise ValueError(
                f"fed_rep: personal: expected a head and a body with parameters, got "
                f"personal={pattern!r} and last={last}, which leave nothing for the {name}, of "
                f"{', '.join(leaves)}."
            )
    return list(cuts.values())


def _matches(pattern: str, paths: list[str]) -> list[str]:
    check_kind(pattern, str, who="fed_rep", name="personal", expected="a regular expression")
    try:
        matches = [path for path in paths if re.search(pattern, path)]
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"fed_rep: personal: expected a regular expression, got {pattern!r}: {error}."
        ) from None
    if not matches:
        raise ValueError(
            f"fed_rep: personal: expected a match in a path, got {pattern!r} for "
            f"{', '.join(paths)}."
        )
    return matches
