# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/simulation_to_federation.ipynb)
#
# # From simulation to a federation
#
# The same run twice: first in one process, then with a server and clients that are processes of their own and talk over sockets through [Flower](https://flower.ai). Nothing is rewritten, and parameters and bytes must be the same. All sockets are on this machine.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fedjax_llm") is None:
    package = "fedjax-llm[demo,flower] @ git+https://github.com/OWNER/REPOSITORY"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
ROUNDS, CLIENTS = 3, 3

# %% [markdown]
# ## The run, simulated
# Clients fine-tune a LoRA and send each update in 2 bits per parameter, with error feedback, so that every client keeps a state between rounds. `chunked(1)` compiles a client for itself, as a client's own process does; other client axes agree to rounding.

# %%
import json
import shlex
import shutil
from pathlib import Path

FLAGS = f"""
    --rounds {ROUNDS} --clients {CLIENTS} --seq 32 --local-steps 4
    --adapter "lora(rank=4)" --uplink "error_feedback(top_k(fraction=0.05))"
"""


def fedjax_llm(words):
    """Run the command, and return what it printed."""
    command = [sys.executable, "-m", "fedjax_llm", *shlex.split(words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout


for folder in ("runs/simulated", "runs/federated"):
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run of this cell
alone = f"--population {CLIENTS} --client-axis 'chunked(1)'"
print(fedjax_llm(f"train {alone} {FLAGS} --out runs/simulated"))

# %% [markdown]
# ## The run, over sockets
# One command starts a SuperLink, which is Flower's server, a SuperNode for each client and the run, and ends them all. Most of its time goes into Flower's start and its polls every three seconds.

# %%
print(fedjax_llm(f"federate --local {CLIENTS} {FLAGS} --out runs/federated"))

# %% [markdown]
# ## The same numbers

# %%
names = ("simulated", "federated")
runs = [json.loads(Path(f"runs/{name}/summary.json").read_text()) for name in names]
for field in ("digest", "uplink_bytes", "downlink_bytes"):
    one, other = (run[field] for run in runs)
    print(f"{field}: {str(one)[:16]} and {str(other)[:16]}, equal: {one == other}")

# %% [markdown]
# ## What Flower adds
# Each row of the server has the bytes of our messages and, beside them, those of Flower's objects around each. HTTP comes on top.

# %%
for path in sorted(Path("runs/federated/server").rglob("rounds.jsonl")):
    for line in path.read_text().splitlines():
        row = json.loads(line)
        ours, around = row["up_bytes"], row["up_envelope_bytes"]
        print(f"round {row['round']}: {ours} bytes up, and {around} of Flower's objects")

# %% [markdown]
# ## Your own algorithm, on several machines
# The command is for runs that its flags can say. An app of your own is two objects, made of the same algorithm that `simulate` takes:
#
# ```python
# app = client_app(algorithm, task.params, task.frozen, corpus, batching, folder="clients")
# app = server_app(algorithm, task.params, task.frozen, batches, names, folder="server", run="a", rounds=5, clients=3, seed=0)
# ```
#
# `examples/flower` has both in files that run. `docs/flower.md` has the certificates, the keys of the nodes and the proxy for several machines.
