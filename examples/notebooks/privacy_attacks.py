# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/privacy_attacks.ipynb)
#
# # Privacy and attacks
#
# A client that keeps its text at home still tells something of it with every update, and a server that averages can be pushed by a few bad clients. This notebook shows both, and what helps.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fedjax_llm") is None:
    package = "fedjax-llm[demo,privacy] @ git+https://github.com/OWNER/REPOSITORY"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
ROUNDS, CLIENTS = 8, 16

# %%
import jax
import optax

from fedjax_llm import Batching, DecoderConfig, byte_corpus, fed_avg, language_model, simulate
from fedjax_llm.data import shakespeare

config = DecoderConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, tie_word_embeddings=False
)
task = language_model(config, key=jax.random.key(0))
corpus = byte_corpus(shakespeare(at_least=20_000))
print(f"{len(corpus.names)} clients")

# %% [markdown]
# ## What one message tells
# A row of the embedding table has a gradient only if its token occurs in the client's text. So the server reads off which tokens the client has, from one message. Here tokens are bytes and the client takes one local step on two windows of 24.

# %%
import numpy as np
from fedjax_compression import eden, identity, sign

from fedjax_llm.audits import recovery, revealed_tokens
from fedjax_llm.data import cohort_batches

keys = np.zeros((1, 2), np.uint32)
batches = cohort_batches(corpus, Batching(seq=24, batch=2, steps=1), [3], keys)
client = jax.tree.map(lambda leaf: leaf[0], batches)
for name, codec in {"identity": identity(), "sign": sign(), "eden": eden(bits=0.1)}.items():
    method = fed_avg(task.loss, task.params, client_optimizer=optax.sgd(0.1), uplink=codec)
    state = method.init(jax.random.key(1), task.params)
    downlink, _ = method.broadcast(jax.random.key(2), state)
    memory = method.client_init(task.params)
    sent, _, _ = method.client_update(jax.random.key(3), task.frozen, downlink, memory, client)
    table = codec.decode(sent, task.params)["embedding"]
    found = recovery(revealed_tokens(table), client.tokens)
    print(f"{name}: precision {found.precision:.2f}, recall {found.recall:.2f}")

# %% [markdown]
# Compression is not protection. One bit for each entry tells all of it. A tenth of a bit defeats this simple rule, which then finds nothing, or noise; a better attack may still succeed: `docs/privacy.md` has measured some that do.
#
# ## Noise with an epsilon
# `dp_fed_avg` clips each client's update and adds Gaussian noise to the sum. The noise comes from a `Secret`, not from the seed, because noise that anyone can draw again protects nothing. A secret is for one run only, so this cell draws a new one each time.

# %%
import secrets

from fedjax_llm.aggregators import dp_fed_avg
from fedjax_llm.privacy import Secret

batching = Batching(seq=32, batch=4, steps=4)


def last_loss(aggregate=None, uplink=None, **kwargs):
    """Mean training loss of the last round's clients, after training with a rule."""
    method = fed_avg(
        task.loss,
        task.params,
        client_optimizer=optax.adam(0.01),
        aggregate=aggregate,
        uplink=uplink,
    )
    federation = (method, task.params, task.frozen, corpus, batching)
    *_, last = simulate(*federation, rounds=ROUNDS, clients=CLIENTS, seed=0, **kwargs)
    return float(last.client_info.loss.mean())


print(f"without noise: {last_loss():.2f} nats per byte")
rule = dp_fed_avg(clip=0.5, noise_multiplier=1.0)
print(f"with noise: {last_loss(rule, secret=Secret(secrets.token_bytes(32))):.2f}")

# %% [markdown]
# What that is worth is an epsilon: the smaller, the less anyone can tell whether a client took part. With a few dozen clients a small epsilon costs the model. With 10,000, of which each round draws a hundred, the same noise is a far smaller part of the mean, and a client that is seldom drawn is better protected.

# %%
from fedjax_llm.privacy import Account, Poisson, calibrate_noise_multiplier

few = Account(1.0, delta=1e-4)
many = Account(1.0, Poisson(rate=0.01, population=10_000, at_most=10_000), delta=1e-5)
print(f"every client in every one of {ROUNDS} rounds: epsilon {few.epsilon(ROUNDS):.1f}")
print(f"one in a hundred of 10,000, for 1,000 rounds: epsilon {many.epsilon(1000):.1f}")
print(f"noise for epsilon 2 in {ROUNDS}: {calibrate_noise_multiplier(2.0, ROUNDS, delta=1e-4):.1f}")

# %% [markdown]
# ## Clients that attack
# A quarter of the clients send minus ten times their update. The mean follows them; rules that assume a few bad clients do not. An uplink is wrapped in `attackable` so that the simulation may put an attack in front of its codec; the method knows nothing of it.

# %%
from fedjax_llm import Conditions
from fedjax_llm.aggregators import multi_krum, weighted_mean
from fedjax_llm.attacks import attackable, scaling

attack = Conditions(attack=scaling(fraction=0.25, factor=-10.0))
bad = CLIENTS // 3
rules = {"mean": weighted_mean(), "multi_krum": multi_krum(f=bad)}
for name, rule in rules.items():
    loss = last_loss(rule, attackable(identity()), conditions=attack)
    print(f"{name} under attack: {loss:.2f} nats per byte")

# %% [markdown]
# ## Go on
# - Other rules, such as `median()`, and attacks that know the rule, such as `alie` or `min_max`: `docs/components.md` lists both.
# - A server that sees only sums learns less. `fedjax_llm.secure_aggregation` has the protocol, and `secure_mean()` the same sums in a simulation; robust rules need single updates, so that the two exclude each other.
