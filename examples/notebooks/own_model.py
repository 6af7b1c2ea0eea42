# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/own_model.ipynb)
#
# # Plain arrays and your own Flax model
#
# Nothing in a federated round is about language. This notebook trains a small classifier of your own, written in Flax, on arrays of your own, by client; methods, codecs, attacks and privacy are those of the language models.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fedjax_llm") is None:
    package = "fedjax-llm[demo,pandas] @ git+https://github.com/OWNER/REPOSITORY"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
ROUNDS, CLIENTS, EXAMPLES = 30, 8, 200

# %% [markdown]
# ## Data by client
# `from_arrays` takes a pytree of arrays for each client. All leaves of a client have as many rows as it has examples. Here each of 20 clients has points on two rings and sees them turned by an angle of its own, and some clients have more points than others.

# %%
import numpy as np

from fedjax_llm import from_arrays


def rings(angle, examples, draw):
    """Points on two rings with noise; those of the inner one have label 1."""
    label = draw.integers(0, 2, examples)
    radius = np.where(label == 1, 1.0, 2.0) + 0.2 * draw.normal(size=examples)
    turn = angle + draw.uniform(0, 1.5 * np.pi, examples)
    points = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    return {"point": points.astype(np.float32), "label": label.astype(np.int32)}


draw = np.random.default_rng(0)
people = {
    f"client {i:02}": rings(2 * np.pi * i / 20, int(draw.integers(EXAMPLES // 4, EXAMPLES)), draw)
    for i in range(20)
}
data = from_arrays(people)
print(f"{len(data.names)} clients with {data.targets().min()} to {data.targets().max()} examples")

# %% [markdown]
# `hold_out` sets a tenth of the clients aside, and the last tenth of the examples of all others.

# %%
from fedjax_llm import hold_out

split = hold_out(data, seed=0)

# %% [markdown]
# ## A model in Flax
# `nnx.split` takes a Flax module apart: the parameters are a pytree that clients train and send, and the graph is what you close over. If some parameters are frozen, split them off and hand them to `simulate` as `frozen`.

# %%
import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Net(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(2, 16, rngs=rngs)
        self.outer = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, points):
        return self.outer(nnx.relu(self.inner(points)))


graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
jax.tree.map(lambda leaf: leaf.shape, nnx.to_pure_dict(params))

# %% [markdown]
# ## A loss for each example
# `masked_mean` makes the loss of a batch of a function that returns one value for each row. A client with fewer examples than a batch has rows that do not count; `masked_mean` knows which.

# %%
from fedjax_llm import masked_mean


def cross_entropy(params, frozen, rows):
    logits = nnx.merge(graph, params)(rows["point"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows["label"])


loss = masked_mean(cross_entropy)

# %% [markdown]
# ## Rounds
# The method is FedAvg with 2 bits for each entry of an update. `Batching(epochs=1)` takes each client through its own examples once a round.

# %%
from fedjax_compression import eden

from fedjax_llm import Batching, fed_avg, simulate, total_bytes

algorithm = fed_avg(loss, params, client_optimizer=optax.adam(0.02), uplink=eden(bits=2))
federation = (algorithm, params, (), split.train, Batching(batch=32, epochs=1))
up = 0
for r in simulate(*federation, rounds=ROUNDS, clients=CLIENTS, seed=0):
    up += total_bytes(r.messages, "up")
    if r.round in (1, ROUNDS):
        print(f"round {r.round}: loss {r.client_info.loss.mean():.3f}, {up} bytes up in all")

# %% [markdown]
# The cell can be run again: it starts from the same parameters and seed, and prints the same numbers. `simulate` is a generator, so that a run can be looked at, stopped or changed after any round.
#
# ## What the model is worth to each client
# A measure returns a total and a count for each row of a batch; `by_client` adds them up by client, and `distribution` gives the mean, the quantiles and the worst tenth over clients. The unseen clients took no part in training.

# %%
from fedjax_llm.evaluation import by_client, distribution
from fedjax_llm.tasks import Scores


def right(params, frozen, batch):
    answers = nnx.merge(graph, params)(batch.data["point"]).argmax(axis=-1)
    hits = (answers == batch.data["label"]) & batch.mask
    return Scores(hits.astype(jnp.float32), batch.mask.astype(jnp.float32))


for name, held in (("held out", split.heldout), ("unseen clients", split.unseen_clients)):
    measured = by_client(right, r.state.params, (), held, seq=None)
    found = distribution(measured, higher_is_better=True)
    print(
        f"{name}: {100 * found.mean:.0f} % right, {100 * found.worst_tenth:.0f} % for the worst tenth"
    )

# %% [markdown]
# ## Go on
# - The message of a client: `fedjax_llm.ledger.messages` and `wire.dumps` show its bytes.
# - Any pytree of arrays is a model: equinox, haiku or a dictionary of your own work as well.
# - `fedjax_llm.algorithms` has 37 methods, of which those named after LoRA and tokens need a language model; SCAFFOLD, FedDyn, FedNova, Ditto and the others take this loss as it is.
