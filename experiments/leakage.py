"""Which compression of a client's update hides its tokens from the server, and which only seems to?

    python experiments/leakage.py        about five minutes on two cores

A decoder of 336,192 parameters (width 64, 2 layers, a vocabulary of 2,048 words) is trained for
200 steps on words of the standard library. Then a client takes part in three rounds with other
words, 2 rows of 16 in each step. Its third message is decoded, as a server does, and audited:
which rows of the embedding table give its words away, and how near its words lie to the span of
the first query kernel's update. With LoRA on the query projections, A's update is tested after 20
steps of the adapter, when B is not zero. Three seeds of batches and codec keys, whose rows go to
experiments/results/leakage.jsonl; `python experiments/leakage.py table` prints their means.

`auc` is .5 for an attack that knows nothing. `top` is the share of true words among as many words
of the highest scores. Frequent words are likely anyhow, so `control` is the AUC of the same attack
on another client's message: what exceeds it was told by the message. That an attack fails here
proves no protection: a better one may succeed.
"""

import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fedjax_compression import codec, wire

from fedjax_llm import DecoderConfig, language_model, lora
from fedjax_llm.audits import (
    auc,
    first_layer_inputs,
    recovery,
    revealed_tokens,
    row_distances,
    span_distances,
)
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batch
from fedjax_llm.runs.results import append_row, read_rows

OUT = Path(__file__).parent / "results/leakage.jsonl"
CODECS = (
    "identity()",
    "blockwise_int(bits=8, block=64)",
    "eden(bits=1)",
    "eden(bits=0.1)",
    "preconditioned(trellis_fixed(bits=0.1))",
    "error_feedback(top_k(fraction=0.01))",
    "sign()",
    "power_sgd(rank=4)",
)
LOCAL = {
    "1 SGD step": (1, optax.sgd(0.1)),
    "4 SGD steps": (4, optax.sgd(0.1)),
    "1 AdamW step": (1, optax.adamw(1e-3)),
}
GROUPS = (
    *(("full", None, local) for local in LOCAL),
    ("lora(rank=32)", 32, "1 SGD step"),
)
SEEDS = 3
CONFIG = DecoderConfig(
    vocab_size=2048,
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
ROWS, SEQ = 2, 16


def words() -> np.ndarray:
    """The standard library's text as ids of its most frequent words; others are left out.

    Ids are shuffled, so that no attack gains by taking the first of equal scores.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = "\n".join(f.read_text(errors="ignore") for f in sorted(folder.glob("*.py")))
    found = re.findall(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]", text)
    known = [w for w, _ in Counter(found).most_common(CONFIG.vocab_size)]
    order = np.random.default_rng(0).permutation(len(known)).tolist()
    ids = dict(zip(known, order, strict=True))
    return np.array([ids[w] for w in found if w in ids])


def windows(text: np.ndarray, steps: int, rows: int, seed: int) -> Batch:
    starts = np.random.default_rng(seed).integers(0, len(text) - SEQ - 1, (steps, rows))
    found = text[starts[..., None] + np.arange(SEQ + 1)]
    return Batch(found[..., :-1], found[..., 1:], np.ones((steps, rows, SEQ), bool))


def trained(task, public: np.ndarray, *, steps: int, rate: float, seed: int):
    """A task's parameters after AdamW on public text."""
    train = jax.jit(local_steps(task.loss, optax.adamw(rate)))
    return train(task.params, task.frozen, windows(public, steps, 16, seed=seed))[0]


def difference(train, task, params, batches):
    return jax.tree.map(jnp.subtract, train(params, task.frozen, batches)[0], params)


def scores(update, candidates, table) -> dict:
    """Scores of all words, higher for those that a decoded update seems to tell, by attack."""
    q = update["blocks"]["attention"]["q_proj"]
    kernel = (q["adapter"]["a"] if "adapter" in q else q["kernel"])[0]
    found = {"span": -span_distances(candidates, kernel, max_rank=ROWS * (SEQ - 1)).distances}
    if "embedding" in update:
        rows = np.asarray(update["embedding"], float)
        found["token"] = row_distances(rows)
        # weight decay moves a row without a gradient against itself
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(table, axis=1)
        found["decay"] = (rows * table).sum(axis=1) / np.maximum(norms, 1e-30)
    return found


def audited(update, other, candidates, table, rounds) -> dict:
    """Audit a client's decoded update of the last of its rounds, and another's as a control."""
    last = rounds[-1]
    inputs = np.unique(last.tokens)
    queried = np.unique(last.tokens[..., 1:])  # a row's first query attends to itself alone
    used = np.concatenate([leaf.ravel() for each in rounds for leaf in (each.tokens, each.targets)])
    absent = np.setdiff1d(np.arange(CONFIG.vocab_size), used)
    row: dict = {"true": int(inputs.size)}
    control = scores(other, candidates, table)
    for name, score in scores(update, candidates, table).items():
        true = queried if name == "span" else inputs
        highest = np.argsort(-score, kind="stable")[: true.size]
        row |= {
            f"{name}_auc": auc(score[true], score[absent]),
            f"{name}_control": auc(control[name][true], control[name][absent]),
            f"{name}_top": float(np.isin(highest, true).mean()),
        }
    if "embedding" in update:
        found = recovery(revealed_tokens(update["embedding"]), inputs)
        row |= {"precision": found.precision, "recall": found.recall}
    return row


def through(built, key, updates, known, encode, decode):
    """The third message of a client: its bytes, and what the server decodes."""
    state = built.init(updates[0])
    for number, update in enumerate(updates):
        payload, state = encode(jr.fold_in(key, number), update, state, known)
    return wire.nbytes(payload), decode(payload, known)


def compiled(name: str):
    """A codec and its jitted functions, given the update that both ends know."""
    built = codec(name)

    def given(known):
        return built if built.given is None else built.given(known)

    return (
        built,
        jax.jit(lambda key, update, state, known: given(known).encode(key, update, state)),
        jax.jit(lambda payload, known: given(known).decode(payload, known)),
    )


def main() -> None:
    OUT.parent.mkdir(exist_ok=True)
    OUT.unlink(missing_ok=True)
    text = words()
    public, private = text[: len(text) // 2], text[len(text) // 2 :]
    base = language_model(CONFIG, key=jr.key(0))
    start = trained(base, public, steps=200, rate=3e-3, seed=0)
    candidates, table = first_layer_inputs(CONFIG, start), np.asarray(start["embedding"], float)
    codecs = {name: compiled(name) for name in CODECS}
    for training, rank, local in GROUPS:
        adapter = lora(rank=rank, targets="q_proj") if rank else None
        task = language_model(CONFIG, key=jr.key(1), adapter=adapter, params=start)
        params = trained(task, public, steps=20, rate=1e-2, seed=1) if rank else task.params
        entries = sum(leaf.size for leaf in jax.tree.leaves(params))
        steps, optimizer = LOCAL[local]
        train = jax.jit(local_steps(task.loss, optimizer))
        rounds = [
            [windows(private, steps, ROWS, seed=10 * seed + i) for i in range(3)]
            for seed in range(SEEDS)
        ]
        updates = [[difference(train, task, params, b) for b in own] for own in rounds]
        others = [
            difference(train, task, params, windows(private, steps, ROWS, seed=1000 + number))
            for number in range(16)
        ]
        known = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *others)
        for name, (built, encode, decode) in codecs.items():
            messages = [
                through(built, jr.key(seed), updates[seed], known, encode, decode)
                for seed in range(SEEDS)
            ]
            for seed in range(SEEDS):
                size, decoded = messages[seed]
                _, other = messages[(seed + 1) % SEEDS]
                row = {
                    "training": training,
                    "local": local,
                    "codec": name,
                    "seed": seed,
                    "parameters": entries,
                    "bits_per_entry": 8 * size / entries,
                    "jax": jax.__version__,
                    "device": jax.devices()[0].device_kind,
                }
                row |= audited(decoded, other, candidates, table, rounds[seed])
                append_row(OUT, row)
            print(training, local, name, {k: v for k, v in row.items() if "_" in k}, flush=True)


def means(rows: list[dict], **wanted: str) -> dict[str, str]:
    """The means over seeds, in two digits, of the rows with these values."""
    own = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return {
        key: f"{np.mean([row[key] for row in own]):.2f}"
        for key, value in own[0].items()
        if isinstance(value, float)
    }


def table_of_means() -> list[str]:
    """The means over seeds as rows of Markdown: shares at the top, and AUCs with their controls."""
    rows = read_rows(OUT)
    lines = [
        "| training | local | codec | bits | precision, recall | by row | AUC | by decay | by span "
        "| AUC |",
        "|---" * 10 + "|",
    ]
    for training, _, local in GROUPS:
        for name in CODECS:
            mean = means(rows, training=training, local=local, codec=name)
            cells = [training, local, f"`{name}`", mean["bits_per_entry"]]
            cells.append(f"{mean['precision']}, {mean['recall']}" if "recall" in mean else "")
            for attack in ("token", "decay", "span"):
                shown = f"{attack}_top" in mean and (attack != "decay" or "AdamW" in local)
                cells.append(mean[f"{attack}_top"] if shown else "")
                if attack != "decay":
                    both = (mean.get(f"{attack}_auc"), mean.get(f"{attack}_control"))
                    cells.append("{} ({})".format(*both) if shown else "")
            lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        print("\n".join(table_of_means()))
    else:
        main()
