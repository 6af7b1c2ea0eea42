# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/first_frontier.ipynb)
#
# # How few bytes reach this loss?
#
# In federated training, clients train on their own data and send updates to a server. The updates are as large as the model, so they are compressed. This notebook trains a small language model with four ways to compress, and shows which loss each reaches for how many bytes. It takes less than five minutes on two CPU cores.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fedjax_llm") is None:
    package = "fedjax-llm[demo,pandas] @ git+https://github.com/OWNER/REPOSITORY"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% [markdown]
# ## One run
# `RunConfig` says everything that a run's numbers depend on. Here the clients are speaking roles of Shakespeare's plays. In each round, 16 of them each take 8 local steps, and the server averages their updates. The model is a decoder over bytes, trained from scratch. To save time, its loss is measured on 512 windows of 64 bytes of held-out text.

# %% tags=["parameters"]
ROUNDS, CLIENTS, EVALUATE_ROWS = 6, 16, 512

# %%
from fedjax_llm import RunConfig

base = RunConfig(rounds=ROUNDS, clients=CLIENTS, evaluate_rows=EVALUATE_ROWS)

# %% [markdown]
# ## Four ways to compress
# A codec is written as a call. `identity()` sends 32-bit floats. `eden(bits=2)` and `eden(bits=1)` rotate an update at random and send 2 bits or 1 bit of each entry. The last one sends a tenth of the entries, and keeps what it did not send for the next round.
#
# Each finished run is a row of `runs/first_frontier/results.jsonl`. You can stop this cell and run it again: finished runs are not run again.

# %%
from fedjax_llm import frontier

codecs = [
    "identity()",
    "eden(bits=2)",
    "eden(bits=1)",
    "error_feedback(top_k(fraction=0.1))",
]
rows = frontier(base, codecs, out="runs/first_frontier")

# %% [markdown]
# ## The table and the picture
# `more` is how much the loss on held-out text exceeds that of the uncompressed run, in nats per byte. Lower and further left is better.

# %%
from fedjax_llm.studies import table

table(rows)

# %%
from IPython.display import Image

Image("runs/first_frontier/frontier.png")

# %% [markdown]
# The same rows as a pandas frame, with every field of every run:

# %%
from fedjax_llm import results

frame = results("runs/first_frontier")
frame[["config.uplink", "config.rounds", "uplink_bytes", "heldout_nats_per_byte"]]

# %% [markdown]
# ## What a byte is
# A byte that is reported is a byte that was made. A codec turns an update into a payload, and `wire.dumps` turns the payload into the message that would travel, with a header and a checksum. The server decodes what `wire.loads` reads.

# %%
import jax
from fedjax_compression import eden, wire

update = {"kernel": jax.random.normal(jax.random.key(0), (100, 100))}
codec = eden(bits=1)
payload, _ = codec.encode(jax.random.key(1), update, codec.init(update))
message = wire.dumps(payload)
print(f"{len(message)} bytes instead of {4 * update['kernel'].size}; they begin {message[:8]}")

# %%
received = wire.loads(message, like=payload)
decoded = codec.decode(received, update)
error = ((decoded["kernel"] - update["kernel"]) ** 2).sum() / (update["kernel"] ** 2).sum()
print(f"squared error of one message: {error:.2f} of the update's square")

# %% [markdown]
# A run's uplink bytes are the lengths of such messages, added up over rounds and clients. Of the uncompressed run, each is four bytes for each parameter and the header:

# %%
plain = rows[0]
each = plain["uplink_bytes"] / (ROUNDS * CLIENTS)
header = each - 4 * plain["trainable"]
print(f"{plain['trainable']} parameters: {each:.0f} bytes a message, {header:.0f} of them header")

# %% [markdown]
# ## Go on
# - More seeds give intervals: `frontier(base, codecs, seeds=[0, 1, 2], out="runs/first_frontier")` runs what is missing.
# - `from fedjax_llm import train` trains one configuration, with checkpoints: `train(base, out="runs/one", track="tensorboard")`.
# - `own_codec` shows how to write a codec of your own and put it into this picture.
