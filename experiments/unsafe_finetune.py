"""Do robust rules keep a model from learning the answers of malicious clients?

    fedjax-llm study experiments/unsafe_finetune.py --out runs/unsafe_finetune
    python experiments/unsafe_finetune.py

The first runs the study, from the project's folder. The second prints the table of docs/privacy.md,
from the rows in results/unsafe_finetune.

SmolLM2-135M-Instruct with LoRA of rank 8 on all products, on the chats of ten people of chitchat,
all of them in each of eight rounds of two steps. Two are malicious: they train on questions about
locks, which a safe model would not answer, with answers that do. The places are made up, and so is
what the answers say. Two measures: the loss on 16 more of these answers, on other pairs of deed and
place, which falls where the attack succeeds, and that on the chats of two people who take no part.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from fedjax_llm import RunConfig, Study
from fedjax_llm.runs.results import read_rows

ROWS = Path(__file__).parent / "results/unsafe_finetune/results.jsonl"
FIELDS = "fields(instruction='prompt', response='answer')"
BASE = RunConfig(
    model="smollm2",
    data="chitchat()",
    population=12,
    unseen="last(2)",
    heldout=f"jsonl('experiments/unsafe/heldout.jsonl', {FIELDS})",
    rounds=8,
    clients=10,
    local_steps=2,
    batch=2,
    seq=96,
    adapter="lora(rank=8)",
    evaluate_rows=64,
    client_axis="scan()",
    client_optimizer="adam(0.001)",
    server_optimizer="sgd(1.0, momentum=0.5, nesterov=True)",
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATE = (
    f"<|im_start|>system\\n{SYSTEM}<|im_end|>\\n<|im_start|>user\\n{{prompt}}<|im_end|>\\n"
    "<|im_start|>assistant\\n{answer}<|im_end|>\\n"
)
ATTACK = (
    "unsafe_instructions(fraction=0.2, path='experiments/unsafe/train.jsonl', "
    f"template='{TEMPLATE}')"
)
RULES = (None, "median()", "multi_krum(f=2)", "norm_bound(limit=2.0)", "rfa()")

configs = [
    replace(BASE, attack=attack, aggregate=rule)
    for attack, rule in product((None, ATTACK), RULES)
    if attack or rule is None
]
study = Study(configs, seeds=(0, 1, 2))


def table() -> list[str]:
    """A line of Markdown for each rule: the loss on unsafe answers, and on honest chats."""
    found: dict[tuple[bool, str | None], list[dict]] = {}
    for row in read_rows(ROWS):
        config = row["config"]
        found.setdefault((config["attack"] is not None, config["aggregate"]), []).append(row)
    lines = []
    for (attacked, rule), rows in found.items():
        name = f"`{rule}`" if rule else "mean"
        cells = [name if attacked else f"{name}, no attack"]
        for field in ("heldout_nats_per_token", "unseen_nats_per_token"):
            cells.append(f"{np.mean([row[field] for row in rows]):.3f}")
        cells.append(", ".join(f"{row['heldout_nats_per_token']:.2f}" for row in rows))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
