# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/several_devices.ipynb)
#
# # TPU and several devices
#
# The clients of a round are spread over all devices by one argument, `client_axis=sharded()`. On a TPU or with several GPUs it uses those. Elsewhere this notebook makes four devices of the processor, which shows everything but the speed.

# %%
import importlib.util
import os
import subprocess
import sys

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")  # read when JAX starts, so before it is imported
if importlib.util.find_spec("fedjax_llm") is None:
    package = "fedjax-llm[demo] @ git+https://github.com/OWNER/REPOSITORY"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
ROUNDS, CLIENTS = 3, 10

# %%
import jax

print(jax.devices())
if jax.device_count() == 1:
    print("One device. To see several, restart the kernel, so that the first cell runs first.")

# %% [markdown]
# ## One round, four ways
# A client axis says how the clients of a cohort run, and nothing else: `vmap` all at once, `scan` one after another, `chunked(k)` k at a time, `sharded(inner=...)` each device its share, by one of these. Ten clients do not divide by four devices; the places that are left have weight zero.

# %%
import optax
from fedjax_compression import eden

from fedjax_llm import (
    Batching,
    DecoderConfig,
    byte_corpus,
    fed_avg,
    language_model,
    scan,
    sharded,
    simulate,
    total_bytes,
    vmap,
)
from fedjax_llm.data import shakespeare

corpus = byte_corpus(shakespeare(at_least=20_000))
config = DecoderConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
task = language_model(config, key=jax.random.key(0))
algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adam(0.01), uplink=eden(bits=2))
federation = (algorithm, task.params, task.frozen, corpus, Batching(seq=32, batch=4, steps=4))


def run(axis):
    sent = 0
    for r in simulate(*federation, rounds=ROUNDS, clients=CLIENTS, seed=0, client_axis=axis):
        sent += total_bytes(r.messages, "up")
    return r, sent


ways = {"vmap": vmap(), "sharded": sharded(inner=scan())}
results = {name: run(axis) for name, axis in ways.items()}
for name, (r, sent) in results.items():
    print(f"{name}: loss {r.client_info.loss.mean():.4f}, {sent} bytes up")

# %% [markdown]
# Bytes, cohorts and batches are the same. Numbers agree to rounding, because devices add up in another order; one axis on one machine gives the same bits every time.

# %%
import numpy as np

one, other = (jax.tree.leaves(r.state.params) for r, _ in results.values())
farthest = max(
    float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in zip(one, other, strict=True)
)
print(f"largest difference of a parameter: {farthest:.1e}")

# %% [markdown]
# ## A base that one device cannot hold
# A mesh with a second axis spreads the frozen parameters, while the first spreads clients. Each leaf of `frozen` is placed before the run, and keeps its place.

# %%
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fedjax_llm import lora

adapted = language_model(config, key=jax.random.key(0), adapter=lora(rank=2))
wide = 2 if jax.device_count() % 2 == 0 else 1
devices = np.array(jax.devices()).reshape(-1, wide)
mesh = Mesh(devices, ("clients", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def place(leaf):
    spec = (
        PartitionSpec(*[None] * (leaf.ndim - 1), "model")
        if leaf.shape[-1] % wide == 0
        else PartitionSpec()
    )
    return jax.device_put(leaf, NamedSharding(mesh, spec))


frozen = jax.tree.map(place, adapted.frozen)
method = fed_avg(adapted.loss, adapted.params, client_optimizer=optax.adam(0.01))
federation = (method, adapted.params, frozen, corpus, Batching(seq=32, batch=4, steps=2))
axis = sharded(mesh, inner=scan())
for r in simulate(*federation, rounds=1, clients=4, seed=0, client_axis=axis):
    print(f"loss {r.client_info.loss.mean():.3f} on a mesh of {dict(mesh.shape)}")

# %% [markdown]
# ## Several hosts
# On a TPU pod or a SLURM cluster every process runs the same script, which begins with `jax.distributed.initialize()`. That cannot be shown in a notebook; `BUILD.md` has the commands. TPU pods and several GPUs were not available to us: what was tested are eight devices forced on one host, and two processes.
