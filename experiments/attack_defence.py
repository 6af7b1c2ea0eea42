"""Which rule holds against which attack, and does compression change the answer?

    fedjax-llm study experiments/attack_defence.py --out runs/attack_defence
    python experiments/attack_defence.py

The first runs the study, in an hour on two cores. The second prints the table of docs/privacy.md
and draws docs/attack_defence.png, from the rows in results/attack_defence.

Twenty roles of Shakespeare with the most text, all of them in each of 12 rounds, a decoder of
107,328 parameters from scratch; four clients are malicious. Three attacks and none, five
rules and two uplinks, three seeds each: seeds draw the weights, the malicious clients and the
held-out text. Rates are those of a run without attack and are not tuned
for each cell, so that a column compares rules at the same steps. `min_max` and `ipm` know all
honest updates.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from fedjax_llm import RunConfig, Study
from fedjax_llm.runs.results import read_rows

ROWS = Path(__file__).parent / "results/attack_defence/results.jsonl"
PICTURE = Path(__file__).parents[1] / "docs/attack_defence.png"

BASE = RunConfig(
    data="shakespeare(at_least=21800)",
    unseen="share(0.0)",
    population=20,
    clients=20,
    rounds=12,
    local_steps=4,
    client_axis="scan()",
    client_optimizer="adam(0.005)",
    server_optimizer="sgd(1.0, momentum=0.5, nesterov=True)",
    evaluate_rows=1000,
)
ATTACKS = (
    None,
    "min_max(fraction=0.2)",
    "ipm(fraction=0.2, epsilon=5.0)",
    "backdoor(fraction=0.2, trigger='blue moon', target='!', poison=0.9, factor=5.0)",
)
RULES = (
    None,
    "median()",
    "multi_krum(f=4)",
    "rfa()",
    "norm_bound(limit=3.0)",
)
UPLINKS = ("identity()", "preconditioned(trellis_fixed(bits=0.1))")

configs = [
    replace(BASE, attack=attack, aggregate=rule, uplink=uplink)
    for uplink, attack, rule in product(UPLINKS, ATTACKS, RULES)
]
study = Study(configs, seeds=(0, 1, 2))

LOSS, OPEN = "heldout_nats_per_byte", "heldout_backdoor"


def cells() -> Mapping[tuple[str, str, str], tuple[float, float | None, int]]:
    """Mean loss, mean success of the backdoor and seeds, by attack, rule and uplink."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for row in read_rows(ROWS):
        config = row["config"]
        key = (name(config["attack"], "none"), name(config["aggregate"], "mean"), config["uplink"])
        found.setdefault(key, []).append(row)
    return {
        key: (
            float(np.mean([row.get(LOSS, np.inf) for row in rows])),
            float(np.mean([row[OPEN] for row in rows])) if OPEN in rows[0] else None,
            len(rows),
        )
        for key, rows in found.items()
    }


def name(text: str | None, without: str) -> str:
    """What stands before the parenthesis of a configuration's text."""
    return text.split("(")[0] if text else without


ATTACK_NAMES = [name(attack, "none") for attack in ATTACKS]
RULE_NAMES = [name(rule, "mean") for rule in RULES]


def table() -> list[str]:
    """A line of Markdown for each uplink and attack: the loss under each rule."""
    found, lines = cells(), []
    for uplink, attack in product(UPLINKS, ATTACK_NAMES):
        texts = [f"`{uplink}`", attack]
        for rule in RULE_NAMES:
            loss, opens, _ = found[attack, rule, uplink]
            shown = f"{loss:.2f}" if np.isfinite(loss) else "diverged"
            texts.append(shown if opens is None else f"{shown}, {100 * opens:.0f} %")
        lines.append("| " + " | ".join(texts) + " |")
    return lines


def draw() -> None:
    """Draw a heat map for each uplink: how far each loss is above the mean's without an attack."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - the table needs no matplotlib

    found = cells()
    figure, axes = plt.subplots(1, len(UPLINKS), figsize=(10, 3.4), layout="constrained")
    for axis, uplink in zip(axes, UPLINKS, strict=True):
        clean = found["none", "mean", uplink][0]
        above = np.array(
            [[found[a, r, uplink][0] - clean for r in RULE_NAMES] for a in ATTACK_NAMES]
        )
        shown = np.where(np.isfinite(above), above, 9.0).clip(0.01, 3.0)
        image = axis.imshow(shown, cmap="magma_r", norm="log", vmin=0.01, vmax=3.0, aspect="auto")
        for row, column in np.ndindex(*above.shape):
            opens = found[ATTACK_NAMES[row], RULE_NAMES[column], uplink][1]
            text = f"{above[row, column]:+.2f}"
            text += "" if opens is None else f"\n{100 * opens:.0f} % open"
            color = "white" if shown[row, column] > 0.3 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        axis.set_xticks(range(len(RULE_NAMES)), RULE_NAMES, rotation=30, ha="right", fontsize=8)
        labels = ATTACK_NAMES if axis is axes[0] else [""] * len(ATTACK_NAMES)
        axis.set_yticks(range(len(ATTACK_NAMES)), labels, fontsize=8)
        axis.set_title(uplink, fontsize=8)
    figure.colorbar(image, ax=axes, label="nats per byte above `none`, `mean`")
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    print("\n".join(table()))
    draw()
