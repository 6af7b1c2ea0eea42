"""Quadratic losses with known optima: 1/2 * ||w - optimum||^2 for each client."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr


class Pull(NamedTuple):
    """Batches of a client: the optimum and the curvature of its loss in each step."""

    optimum: jax.Array
    strength: jax.Array
    mask: jax.Array


def loss(params, frozen, batch):
    return 0.5 * (batch.strength * (params - batch.optimum) ** 2).sum()


def pulls(optima, *, steps, live=None, strength=None):
    """Batches of clients with `steps` steps each, of which the first `live` have targets."""
    clients, size = optima.shape
    live = jnp.full(clients, steps) if live is None else jnp.asarray(live)
    strength = jnp.ones((clients, size)) if strength is None else strength
    repeated = [jnp.repeat(leaf[:, None], steps, axis=1) for leaf in (optima, strength)]
    return Pull(*repeated, (jnp.arange(steps) < live[:, None]) * jnp.ones((clients, 1)))


def rounds(algorithm, params, batches, weights, *, number, drawn=None, broken=None):
    """The server's and the clients' states after `number` rounds, compiled as one program.

    `drawn` says which clients take part, `[rounds, clients]`; all by default. `broken` says whose
    data are NaN; nobody's by default.
    """
    clients = len(weights)
    first = algorithm.init(jr.key(0), params)
    own = algorithm.client_init(params)
    own = jax.tree.map(lambda leaf: jnp.stack([leaf] * clients), own)
    drawn = jnp.ones((number, clients), bool) if drawn is None else jnp.asarray(drawn)
    nobody = jnp.zeros((number, clients), bool)

    def one(carry, here):
        state, own = carry
        key, there, nan = here
        read = batches
        if broken is not None:
            optima = jnp.where(nan[:, None, None], jnp.nan, batches.optimum)
            read = batches._replace(optimum=optima)
        sent, state = algorithm.broadcast(key, state)
        keys = jax.vmap(jr.fold_in, (None, 0))(key, jnp.arange(clients))
        update = jax.vmap(algorithm.client_update, (0, None, None, 0, 0))
        uplinks, after, _ = update(keys, {}, sent, own, read)
        partial = algorithm.gather.empty(state, clients)
        partial = algorithm.gather.add(state, partial, uplinks, weights * there)
        own = jax.tree.map(
            lambda new, old: jnp.where(there.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            after,
            own,
        )
        return (algorithm.server_update(key, state, partial)[0], own), None

    keys = jr.split(jr.key(1), number)
    return jax.jit(
        lambda *carry: jax.lax.scan(
            one, carry, (keys, drawn, nobody if broken is None else jnp.asarray(broken))
        )[0]
    )(first, own)
