"""FedRep (Collins et al. 2021, arXiv:2102.07078, algorithm 1): layers that stay."""

import re

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, PyTree

from ..algorithm import FederatedAlgorithm
from ..local import Batches, ClientInfo, Frozen, Loss, Params, lasting_steps, local_steps
from ._averaging import Work
from ._part import averaging_part


def fed_rep(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    personal: str,
    passes: int = 1,
) -> FederatedAlgorithm:
    """A body that is shared and a head that is each client's own: a client first trains its head on
    the body that it received, then the body under that head.

    `personal` is a regular expression: a leaf in whose path (`blocks/mlp/up_proj/kernel`) it is
    found belongs to the head, and all others to the body. Up: the difference of the body, through
    `uplink`. Down: the body, through `downlink`. The head never travels: it starts as it was
    first given, lasts on its client from round to round, and is in the client's `personal` model;
    the server's parameters have the first one still.
    The head takes `passes` passes over the round's batches, and then the body one over the same
    batches, each by a fresh `client_optimizer`; the loss reported is that under the body's steps.
    Exact but for the sum over clients, which is a mean by weight here.
    Cost: passes + 1 times the local steps of `fed_avg`, whose gradients are of a part alone.
    Failures, codecs with memories and the server's optimizer are treated as `fed_avg` treats them.
    Raises `ValueError` for a pattern that cannot be read or that leaves head or body without a
    leaf, unless passes is an integer above 0, and where the parameters do not have the structure
    of `like`.
    """
    if type(passes) is not int or passes < 1:
        raise ValueError(f"fed_rep: passes must be an integer above 0, got {passes!r}.")
    of_head = _found(personal, like)
    treedef = jax.tree.structure(like)

    def body_of(params: Params) -> list[Array]:
        return [leaf for leaf, own in zip(jax.tree.leaves(params), of_head, strict=True) if not own]

    def head_of(params: Params) -> list[Array]:
        return [leaf for leaf, own in zip(jax.tree.leaves(params), of_head, strict=True) if own]

    def whole(body: list[Array], head: list[Array]) -> Params:
        parts = iter(body), iter(head)
        return jax.tree.unflatten(treedef, [next(parts[own]) for own in of_head])

    def loss_of_head(head: list[Array], held: tuple[list[Array], Frozen], batch: Batches) -> Array:
        body, frozen = held
        return loss(whole(body, head), frozen, batch)

    def loss_of_body(body: list[Array], held: tuple[list[Array], Frozen], batch: Batches) -> Array:
        head, frozen = held
        return loss(whole(body, head), frozen, batch)

    train_head = lasting_steps(loss_of_head, client_optimizer)
    train_body = local_steps(loss_of_body, client_optimizer)

    def update(
        received: PyTree, head: PyTree, frozen: Frozen, batches: Batches
    ) -> tuple[PyTree, PyTree, ClientInfo]:
        def one_pass(carry: tuple, _: None) -> tuple[tuple, None]:
            head, memory = carry
            trained = train_head(head, memory, (received, frozen), batches)
            return trained[:2], None

        start = head, client_optimizer.init(head)
        (head, _), _ = jax.lax.scan(one_pass, start, length=passes)
        trained, info = train_body(received, (head, frozen), batches)
        return jax.tree.map(jnp.subtract, trained, received), head, info

    return averaging_part(
        Work(head_of, update),
        like,
        who="fed_rep",
        take=body_of,
        put=lambda params, body: whole(body, head_of(params)),
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
    )._replace(personal=lambda params, own: whole(body_of(params), own.work))


def _found(pattern: str, like: Params) -> list[bool]:
    """Whether a pattern is found in the path of each leaf."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(like)
    ]
    try:
        found = [re.search(pattern, path) is not None for path in paths]
    except (re.error, RecursionError, OverflowError, TypeError) as error:
        raise ValueError(
            f"fed_rep: personal must be a regular expression, got {pattern!r}: {error}."
        ) from None
    if all(found) or not any(found):
        what = "all parameters" if found and found[0] else "none"
        raise ValueError(
            f"fed_rep: personal must be found in the paths of some parameters, and not of all, "
            f"got {pattern!r}, found in {what} of {', '.join(paths)}."
        )
    return found
