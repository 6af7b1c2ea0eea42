"""Which texts can a server rebuild from a client's compressed message, and by which attack?

    python -m experiments.reconstruction        about seven minutes on one core

The decoder, its public training and the words are those of `experiments/leakage.py`. A client sends
three messages, of one SGD step each on texts of 8 words, and the third is decoded and attacked:

    search    DAGER's search (`recover_texts`), 2 texts in the step; full training, and LoRA of rank
              32 on the queries, whose B is not zero
    matching  gradient matching (`match_gradients`, LAMP's cosine), 1 text in the step, among the 64
              words whose rows of the embedding table moved most

The server knows how many texts there are and how long they are. A text's last word is a target
alone, which the search cannot find: both attacks are judged by the 7 others. `placed` is the share
of words in their right place, with the recovered texts in their best order; `bigrams` the share of
the texts' pairs of neighbours that occur in a recovered text; `control` is the same for the texts
that the attack finds in another client's message. The settings of matching were chosen on texts of
random tokens and an untrained decoder. Three seeds, whose rows go to
experiments/results/reconstruction.jsonl; a codec whose rows are there is not run again.
`python -m experiments.reconstruction table` prints their means.
"""

import itertools
import sys
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import optax

from experiments.leakage import (
    CODECS,
    CONFIG,
    SEEDS,
    compiled,
    difference,
    means,
    through,
    trained,
    words,
)
from fedjax_llm import language_model, lora
from fedjax_llm.audits import match_gradients, recover_texts, row_distances
from fedjax_llm.client_training import local_steps
from fedjax_llm.data import Batch
from fedjax_llm.runs.results import append_row, read_rows

OUT = Path(__file__).parent / "results/reconstruction.jsonl"
GROUPS = (("full", "search", 2), ("lora(rank=32)", "search", 2), ("full", "matching", 1))
"""Training, attack, and the number of texts."""
WORDS = 8
SEARCH = {"length": WORDS - 1, "near": 1.0, "most_tokens": 32, "most_prefixes": 64}
MATCHING = {"length": WORDS, "steps": 1000, "learning_rate": 0.03}


def windows(text: np.ndarray, count: int, seed: int) -> Batch:
    """One step of some texts."""
    starts = np.random.default_rng(seed).integers(0, len(text) - WORDS, count)
    found = text[starts[:, None] + np.arange(WORDS)][None]
    return Batch(found[..., :-1], found[..., 1:], np.ones((1, count, WORDS - 1), bool))


def rebuilt(attack: str, model, update, count: int) -> list[np.ndarray]:
    """The texts that an attack finds in a decoded update."""
    if attack == "search":
        full = "embedding" in update
        most = count * (WORDS - 1 if full else WORDS - 2)  # a first word's query has no gradient
        found = recover_texts(model, update, texts=count, max_rank=most, **SEARCH)
        return [text.tokens for text in found]
    moved = np.argsort(-row_distances(update["embedding"]), kind="stable")[:64]
    gradient = jax.tree.map(lambda leaf: -leaf, update)
    found = match_gradients(model, gradient, key=jr.key(0), candidates=moved, **MATCHING)
    return list(found.tokens[:, : WORDS - 1])


def compared(found: list[np.ndarray], true: np.ndarray) -> dict:
    """Shares of the true words in their place, and of the true bigrams."""
    places = np.full(true.shape, -1)
    for row, text in enumerate(found[: len(true)]):
        places[row, : len(text)] = text
    orders = itertools.permutations(range(len(true)))
    placed = max((places[list(order)] == true).mean() for order in orders)
    pairs = {pair for text in found for pair in itertools.pairwise(text.tolist())}
    wanted = {pair for text in true for pair in itertools.pairwise(text.tolist())}
    return {"placed": float(placed), "bigrams": len(wanted & pairs) / len(wanted)}


def main() -> None:
    OUT.parent.mkdir(exist_ok=True)
    done = (
        {(r["training"], r["attack"], r["codec"]) for r in read_rows(OUT)} if OUT.exists() else {}
    )
    text = words()
    public, private = text[: len(text) // 2], text[len(text) // 2 :]
    base = language_model(CONFIG, key=jr.key(0))
    start = trained(base, public, steps=200, rate=3e-3, seed=0)
    codecs = {name: compiled(name) for name in CODECS}
    for training, attack, count in GROUPS:
        adapter = None if training == "full" else lora(rank=32, targets="q_proj")
        task = language_model(CONFIG, key=jr.key(1), adapter=adapter, params=start)
        params = task.params
        if adapter is not None:
            params = trained(task, public, steps=20, rate=1e-2, seed=1)
        entries = sum(leaf.size for leaf in jax.tree.leaves(params))
        model = task.model(params, task.frozen)
        train = jax.jit(local_steps(task.loss, optax.sgd(0.1)))
        steps = [
            [windows(private, count, 10 * seed + i) for i in range(3)] for seed in range(SEEDS)
        ]
        updates = [[difference(train, task, params, b) for b in own] for own in steps]
        others = [
            difference(train, task, params, windows(private, count, 1000 + number))
            for number in range(16)
        ]
        known = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *others)
        for name, (built, encode, decode) in codecs.items():
            if (training, attack, name) in done:
                continue
            messages = [
                through(built, jr.key(seed), updates[seed], known, encode, decode)
                for seed in range(SEEDS)
            ]
            found = [rebuilt(attack, model, decoded, count) for _, decoded in messages]
            for seed in range(SEEDS):
                true = np.asarray(steps[seed][-1].tokens[0])
                control = compared(found[(seed + 1) % SEEDS], true)
                row = {
                    "training": training,
                    "attack": attack,
                    "texts": count,
                    "codec": name,
                    "seed": seed,
                    "bits_per_entry": 8 * messages[seed][0] / entries,
                    "jax": jax.__version__,
                    "device": jax.devices()[0].device_kind,
                    **compared(found[seed], true),
                    **{f"{key}_control": value for key, value in control.items()},
                }
                append_row(OUT, row)
            print(training, attack, name, row["placed"], row["bigrams"], flush=True)


def table_of_means() -> list[str]:
    """The means over seeds as rows of Markdown, with their controls in brackets."""
    rows = read_rows(OUT)
    lines = ["| training | attack | codec | bits | placed | bigrams |", "|---" * 6 + "|"]
    for training, attack, count in GROUPS:
        for name in CODECS:
            mean = means(rows, training=training, attack=attack, codec=name)
            texts = f"{attack}, {count} text{'s' * (count > 1)}"
            shares = [f"{mean[k]} ({mean[f'{k}_control']})" for k in ("placed", "bigrams")]
            cells = [training, texts, f"`{name}`", mean["bits_per_entry"], *shares]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        print("\n".join(table_of_means()))
    else:
        main()
