"""FedRep (Collins et al. 2021, arXiv:2102.07078, algorithm 1): layers that stay."""

import re

import jax
import jax.numpy as jnp
import optax
from fedjax_compression import Compressor
from jaxtyping import Array, PyTree

from ...algorithm import FederatedAlgorithm
from ...client_training import (
    Batches,
    ClientInfo,
    Frozen,
    Loss,
    Params,
    local_steps,
    local_steps_with_state,
)
from ..shared.averaging import Work
from ..shared.partial_averaging import averaging_part


def fed_rep(
    loss: Loss,
    like: Params,
    *,
    client_optimizer: optax.GradientTransformation,
    server_optimizer: optax.GradientTransformation | None = None,
    uplink: Compressor | None = None,
    downlink: Compressor | None = None,
    personal: str | None = None,
    last: int = 0,
    passes: int = 1,
) -> FederatedAlgorithm:
    """A body that is shared and a head that is each client's own: a client first trains its head on
    the body that it received, then the body under that head.

    `personal` is a regular expression: a leaf in whose path (`blocks/mlp/up_proj/kernel`) it is
    found belongs to the head. So do the `last` layers of the blocks, whose leaves are stacks of
    layers. All else is the body. Up: the difference of the body, through `uplink`. Down: the body,
    through `downlink`. The head never travels: it starts as it was first given, lasts on its client
    from round to round, and is in the client's `personal` model; the server's parameters have the
    first one still.
    The head takes `passes` passes over the round's batches, and then the body one over the same
    batches, each by a fresh `client_optimizer`; the loss reported is that under the body's steps.
    Exact but for the sum over clients, which is a mean by weight here.
    Cost: passes + 1 times the local steps of `fed_avg`, whose gradients are of a part alone.
    Failures, codecs with memories and the server's optimizer are treated as `fed_avg` treats them.
    Raises `ValueError` for a pattern that cannot be read or is found nowhere, for more last layers
    than there are, where head or body is empty, unless passes is an integer above 0, and where the
    parameters do not have the structure of `like`.
    """
    if type(passes) is not int or passes < 1:
        raise ValueError(f"fed_rep: passes must be an integer above 0, got {passes!r}.")
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

    def loss_of_head(head: list[Array], held: tuple[list[Array], Frozen], batch: Batches) -> Array:
        body, frozen = held
        return loss(whole(body, head), frozen, batch)

    def loss_of_body(body: list[Array], held: tuple[list[Array], Frozen], batch: Batches) -> Array:
        head, frozen = held
        return loss(whole(body, head), frozen, batch)

    train_head = local_steps_with_state(loss_of_head, client_optimizer)
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
        put=lambda head, body: whole(body, head),
        server_optimizer=server_optimizer,
        uplink=uplink,
        downlink=downlink,
    )._replace(personal=lambda params, own: whole(body_of(params), own.work))


def _cuts(pattern: str | None, last: int, like: Params) -> list[int | None]:
    """Of each leaf, from which row on it is the head's: 0 for all of it, None for nothing."""
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    cuts: dict[str, int | None] = dict.fromkeys(leaves)
    stacks = {path: len(leaf) for path, leaf in leaves.items() if path.startswith("blocks/")}
    if type(last) is not int or not 0 <= last <= min(stacks.values(), default=0):
        raise ValueError(
            f"fed_rep: last must be from 0 to {min(stacks.values(), default=0)}, the layers there "
            f"are, got {last!r}."
        )
    if last:
        cuts |= {path: layers - last for path, layers in stacks.items()}
    found = [] if pattern is None else _found(pattern, list(leaves))
    cuts |= dict.fromkeys(found, 0)
    for what, empty in (("head", None), ("body", 0)):
        if all(cut == empty for cut in cuts.values()):
            raise ValueError(
                f"fed_rep: expected personal and last to leave something to head and body, got "
                f"personal={pattern!r} and last={last}, and nothing for the {what}, of "
                f"{', '.join(leaves)}."
            )
    return list(cuts.values())


def _found(pattern: str, paths: list[str]) -> list[str]:
    try:
        found = [path for path in paths if re.search(pattern, path)]
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"fed_rep: personal must be a regular expression, got {pattern!r}: {error}."
        ) from None
    if not found:
        raise ValueError(
            f"fed_rep: personal must be found in a path, got {pattern!r}, and the paths "
            f"{', '.join(paths)}."
        )
    return found
