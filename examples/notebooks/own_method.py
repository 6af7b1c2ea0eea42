# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/own_method.ipynb)
#
# # Write your own aggregator and your own method
#
# An aggregator combines the clients' updates, and is four pure functions. A method is a whole round: five pure functions and a fold. This notebook writes one of each, checks both, and runs them.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fedjax_llm") is None:
    package = "fedjax-llm[demo,pandas] @ git+https://github.com/OWNER/REPOSITORY"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
ROUNDS, CLIENTS, EVALUATE_ROWS = 6, 16, 512

# %% [markdown]
# ## An aggregator
# The rule below is the mean of the updates' directions times the mean of their lengths, so that a client with a huge update moves the model no further than others. It is a fold: `empty` is the sum before any client, `add` folds in a chunk of clients, `merge` adds the sums of two devices, `finish` makes the update. Memory is that of one update, however many clients there are. A client of weight zero counts as nothing.

# %%
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_llm import Aggregator


class Directions(NamedTuple):
    units: Any  # sum of weight * update / length
    lengths: jax.Array  # sum of weight * length
    weight: jax.Array


def mean_direction() -> Aggregator:
    """The weighted mean of unit vectors along the updates, times the mean length."""

    def empty(like, clients):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), like)
        return Directions(zeros, jnp.zeros(()), jnp.zeros(()))

    def add(partial, updates, weights):
        rows = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
        squares = [
            (leaf**2).reshape(len(weights), -1).sum(axis=1) for leaf in jax.tree.leaves(rows)
        ]
        lengths = jnp.sqrt(sum(squares))
        scales = weights / jnp.where(lengths > 0, lengths, 1.0)
        units = jax.tree.map(lambda leaf: jnp.tensordot(scales, leaf, axes=1), rows)
        new = Directions(units, weights @ lengths, weights.sum())
        return jax.tree.map(jnp.add, partial, new)

    def merge(one, other):
        return jax.tree.map(jnp.add, one, other)

    def finish(partial):
        weight = jnp.where(partial.weight > 0, partial.weight, 1.0)
        return jax.tree.map(lambda leaf: leaf * partial.lengths / weight**2, partial.units)

    return Aggregator(empty, add, merge, finish)


# %% [markdown]
# `check_aggregator` holds it to its contract: the order and the chunks of clients change nothing, weight zero counts as nothing, an empty round is zero. It names the promise that fails and says how to mend it.

# %%
from fedjax_llm.testing import check_aggregator

check_aggregator(mean_direction())

# %% [markdown]
# Two clients at right angles, one of them ten times as long:

# %%
rule = mean_direction()
rows = jnp.array([[1.0, 0.0], [0.0, 10.0]])
rule.finish(rule.add(rule.empty(rows[0], 2), rows, jnp.ones(2)))

# %% [markdown]
# A run takes it under a name. `Named(text, object)` is how anything of your own goes into a `RunConfig`; the text stands for it in rows and pictures. Here one client in eight multiplies its update by 50. With `resume=True` a cell that was interrupted goes on where it stopped, and a finished run is only read.

# %%
from dataclasses import replace

from fedjax_llm import Named, RunConfig, train

base = RunConfig(rounds=ROUNDS, clients=CLIENTS, evaluate_rows=EVALUATE_ROWS)
attacked = replace(base, attack="scaling(fraction=0.125, factor=50.0)")
ours = Named("mean_direction()", mean_direction())
for name, rule in {"weighted_mean": "weighted_mean()", "mean_direction": ours}.items():
    row = train(replace(attacked, aggregate=rule), out=f"runs/own_method/{name}", resume=True)
    print(f"{name}: {row['heldout_nats_per_byte']} nats per byte")

# %% [markdown]
# ## A method
# What a client knows is what it is sent, and what the server knows is what clients send. So a method says what each message holds, and the library counts its bytes.
#
# The method below is FedAvg whose clients start from the last model, while the model that is evaluated is a moving average of all rounds' models.
#
# - `init` and `client_init` make the states of the server and of one client. The server's has a field `params`: the model.
# - `broadcast` makes the message to the clients.
# - `client_update` trains and encodes. It is written for one client; the library runs many.
# - `gather_updates` is the fold: it decodes each message, leaves out those with a NaN, and hands the rest to an aggregator.
# - `server_update` takes the step. If nobody was accepted, the state stays as it was: `server_result` sees to that.

# %%
from fedjax_compression import identity

from fedjax_llm import FederatedAlgorithm, local_steps, weighted_mean
from fedjax_llm.algorithms.shared import (
    cast,
    check_structure,
    gather_updates,
    master_copy,
    server_result,
)


class Smoothed(NamedTuple):
    params: Any  # the moving average: what is evaluated and saved
    last: Any  # what clients start from


def smoothed_averaging(loss, like, *, client_optimizer, uplink=None, decay: float = 0.5):
    """FedAvg whose model is a moving average of the rounds' models."""
    uplink, mean = uplink or identity(), weighted_mean()
    steps = local_steps(loss, client_optimizer)

    def init(key, params):
        check_structure(params, like, who="smoothed_averaging")
        return Smoothed(master_copy(params), master_copy(params))

    def broadcast(key, state):
        return cast(state.last, like), state

    def client_update(key, frozen, sent, client_state, batches):
        trained, info = steps(sent, frozen, batches)
        update = cast(jax.tree.map(jnp.subtract, trained, sent), like)
        payload, client_state = uplink.encode(key, update, client_state)
        return payload, client_state, info

    def server_update(key, state, partial):
        update = mean.finish(partial.aggregate)
        last = jax.tree.map(jnp.add, state.last, update)
        params = jax.tree.map(lambda p, new: decay * p + (1 - decay) * new, state.params, last)
        return server_result(partial, Smoothed(params, last), state, update)

    return FederatedAlgorithm(
        init=init,
        client_init=uplink.init,
        broadcast=broadcast,
        client_update=client_update,
        gather=gather_updates(lambda state, sent: uplink.decode(sent, like), mean, like),
        server_update=server_update,
    )


# %% [markdown]
# `check_algorithm` plays four rounds of it on a small problem: all ways to run clients agree, a client of weight zero counts as nothing, a client with a NaN is left out and counted, nothing is compiled twice.

# %%
import numpy as np
import optax
from fedjax_compression import eden, error_feedback

from fedjax_llm import Batching, from_arrays, masked_mean
from fedjax_llm.data import cohort_batches
from fedjax_llm.testing import check_algorithm

draw = np.random.default_rng(0).normal
people = {f"client {i}": {"x": draw(size=(4, 3)).astype(np.float32)} for i in range(4)}
loss = masked_mean(lambda params, frozen, rows: (rows["x"] @ params["w"] - 1) ** 2)
weights = {"w": jnp.zeros(3)}
keys = np.arange(8, dtype=np.uint32).reshape(4, 2)
batches = cohort_batches(from_arrays(people), Batching(batch=2, steps=2), range(4), keys)
uplink = error_feedback(eden(bits=2))
method = smoothed_averaging(loss, weights, client_optimizer=optax.sgd(0.05), uplink=uplink)
check_algorithm(method, weights, (), batches)

# %% [markdown]
# Registered, it has a name for runs, sweeps and the command line. `needs` says what a run passes to the factory; nothing else is ever passed. `register` refuses a name that is taken, so a cell that may run twice asks first.

# %%
from fedjax_llm import Method
from fedjax_llm.algorithms.registry import METHODS, register

if "smoothed_averaging" not in METHODS:
    register("smoothed_averaging", Method(smoothed_averaging, needs=("client_optimizer", "uplink")))

config = replace(base, algorithm="smoothed_averaging(decay=0.5)", uplink="eden(bits=1)")
row = train(config, out="runs/own_method/smoothed", resume=True)
print(f"{row['heldout_nats_per_byte']:.3f} nats per byte, {row['uplink_bytes']} bytes up")

# %% [markdown]
# In so few rounds the average lags behind. What it is worth after many is a question for a `Study` with several seeds.
#
# ## Go on
# - Put the functions into a module of yours, `mypackage/methods.py`, and `fedjax-llm train --plugin mypackage.methods --algorithm "smoothed_averaging(decay=0.9)"` runs it.
# - `help(FederatedAlgorithm)` has what a method can declare beside this: a model of each client's own, what a client keeps whose message was lost, that every client must take part.
