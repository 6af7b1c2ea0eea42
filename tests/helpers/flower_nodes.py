"""Nodes of an in-memory grid, one for each client, and bits to compare."""

import jax
import numpy as np

from fedjax_llm.flower import client_app, federate

from .flower_task import BATCHING, NAMES, PARAMS, batches, corpus


def nodes(algorithm, folder, secure=None):
    """One node for each client, in an order that is not that of the roster."""
    app = client_app(
        *(algorithm, PARAMS, (), corpus(), BATCHING),
        folder=folder,
        compilation_cache=False,
        secure=secure,
    )
    return {90 - i: (app, {"client": name}) for i, name in enumerate(NAMES)}


def over_flower(algorithm, grid, *, rounds=3, clients=3, **options):
    return list(
        federate(
            grid,
            algorithm,
            *(PARAMS, (), batches(), NAMES),
            run="test",
            rounds=rounds,
            clients=clients,
            seed=11,
            **options,
        )
    )


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
