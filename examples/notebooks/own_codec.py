# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/own_codec.ipynb)
#
# # Write your own codec
#
# A codec is three pure functions. This notebook writes one, checks it, and puts it on the frontier beside EDEN.

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
# ## Three functions
# - `init(like)` is the codec's memory at the client. This one has none.
# - `encode(key, update, state)` returns the payload and the new memory. The payload is a tree of arrays; its bytes are what travels, so bits are packed here.
# - `decode(payload, like)` returns the update that the server sees.
#
# The codec below sends the sign of each entry, in one bit, and for each tensor the mean size of its entries.

# %%
import jax
import jax.numpy as jnp
from fedjax_compression import Compressor
from fedjax_compression.ops.flat import check_floating


def scaled_sign() -> Compressor:
    """Send the signs of a tensor's entries, one bit each, and the mean of their sizes."""

    def encode_leaf(x):
        x = x.astype(jnp.float32).reshape(-1)
        return {"signs": jnp.packbits(x >= 0), "size": jnp.abs(x).mean()}

    def encode(key, update, state):
        check_floating(update, who="scaled_sign")  # integers have no signs to average
        return jax.tree.map(encode_leaf, update), state

    def decode_leaf(like, sent):
        signs = jnp.unpackbits(sent["signs"], count=like.size).astype(jnp.float32)
        return ((2 * signs - 1) * sent["size"]).reshape(like.shape).astype(like.dtype)

    return Compressor(
        init=lambda like: (),
        encode=encode,
        decode=lambda payload, like: jax.tree.map(decode_leaf, like, payload),
    )


# %% [markdown]
# ## Check it
# `check_compressor` holds a codec to its contract: shapes and dtypes come back, `jit` and `vmap` change nothing, the payload survives the wire, zeros and a NaN do no harm. It names the promise that fails, and says how to mend it.

# %%
from fedjax_compression.testing import check_compressor

update = {"kernel": jax.random.normal(jax.random.key(0), (7, 11)), "bias": jnp.ones(3)}
check_compressor(scaled_sign(), update)

# %% [markdown]
# How many bytes does it send, and how wrong is one message?

# %%
from fedjax_compression import wire

large = {"kernel": jax.random.normal(jax.random.key(0), (100, 100))}
payload, _ = scaled_sign().encode(jax.random.key(1), large, ())
decoded = scaled_sign().decode(payload, large)
error = ((decoded["kernel"] - large["kernel"]) ** 2).sum() / (large["kernel"] ** 2).sum()
print(f"{wire.nbytes(payload)} bytes instead of {4 * large['kernel'].size}, error {error:.2f}")

# %% [markdown]
# ## On the frontier
# The sign is biased, and averaging over clients does not remove a bias. `error_feedback` keeps what was not sent, and adds it to the client's next update. Your codec composes with it like any other. The text before each codec is its name in rows and pictures.

# %%
from fedjax_compression import eden, error_feedback, identity

from fedjax_llm import RunConfig, frontier

rows = frontier(
    RunConfig(rounds=ROUNDS, clients=CLIENTS, evaluate_rows=EVALUATE_ROWS),
    {
        "identity()": identity(),
        "eden(bits=1)": eden(bits=1),
        "scaled_sign()": scaled_sign(),
        "error_feedback(scaled_sign())": error_feedback(scaled_sign()),
    },
    out="runs/own_codec",
)

# %%
from fedjax_llm.studies import table

table(rows)

# %%
from IPython.display import Image

Image("runs/own_codec/frontier.png")

# %% [markdown]
# ## Go on
# `fedjax_compression.register("scaled_sign", scaled_sign)` in a module of yours gives the codec a name on the command line: `fedjax-llm frontier --plugin mypackage.codecs --codecs "scaled_sign()"`. Try it with other learning rates before you judge it: a codec's best rate is often not that of the uncompressed run, and a `Study` with `Tuning` gives each codec the same budget.
