"""Which rule holds against which attack, where a pretrained model is fine-tuned with LoRA?

    fedjax-llm study experiments/attack_finetune.py --out runs/attack_finetune
    python experiments/attack_finetune.py

The first runs the study. The second prints the table of docs/privacy.md, from the rows in
results/attack_finetune.

SmolLM2-135M-Instruct with LoRA of rank 8 on all products, on the chats of ten people of chitchat,
all of them in each of eight rounds of two steps; two are malicious. The attacks and rules are those
of attack_defence.py, with a trigger of two tokens at the end of an answer.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from fedjax_llm import RunConfig, Study
from fedjax_llm.runs.results import read_rows

ROWS = Path(__file__).parent / "results/attack_finetune/results.jsonl"
BASE = RunConfig(
    model="smollm2",
    data="chitchat()",
    population=10,
    unseen="share(0.0)",
    rounds=8,
    clients=10,
    local_steps=2,
    batch=2,
    seq=64,
    adapter="lora(rank=8)",
    evaluate_rows=64,
    client_axis="scan()",
    client_optimizer="adam(0.001)",
    server_optimizer="sgd(1.0, momentum=0.5, nesterov=True)",
)
ATTACKS = (
    None,
    "ipm(fraction=0.2, epsilon=5.0)",
    "backdoor(fraction=0.2, trigger=' blue moon', target=' never', poison=0.9, factor=5.0)",
)
RULES = (None, "median()", "multi_krum(f=2)", "norm_bound(limit=2.0)")

configs = [replace(BASE, attack=attack, aggregate=rule) for attack, rule in product(ATTACKS, RULES)]
study = Study(configs, seeds=(0, 1, 2))

LOSS, OPEN = "heldout_nats_per_token", "heldout_backdoor"


def name(text: str | None, without: str) -> str:
    """What stands before the parenthesis of a configuration's text."""
    return text.split("(")[0] if text else without


def table() -> list[str]:
    """A line of Markdown for each attack: loss and the backdoor's success under each rule."""
    found: dict[tuple[str, str], list[dict]] = {}
    for row in read_rows(ROWS):
        config = row["config"]
        key = name(config["attack"], "none"), name(config["aggregate"], "mean")
        found.setdefault(key, []).append(row)
    lines = []
    for attack in ATTACKS:
        cells = [name(attack, "none")]
        for rule in RULES:
            rows = found[name(attack, "none"), name(rule, "mean")]
            loss = float(np.mean([row.get(LOSS, np.inf) for row in rows]))
            text = f"{loss:.3f}" if np.isfinite(loss) else "diverged"
            if OPEN in rows[0]:
                text += f", {100 * float(np.mean([row[OPEN] for row in rows])):.0f} %"
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
