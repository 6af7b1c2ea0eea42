"""What does a guarantee for each client cost in loss, and does compression cost more under it?

    mkdir -p runs && printf '%064d' 7 > runs/epsilon.secret
    fedjax-llm study experiments/epsilon.py --out runs/epsilon
    python experiments/epsilon.py

The first two run the study, in an hour and a half on two cores; its secret is public, so that
anyone gets the same numbers, and protects nobody. The third prints the table of docs/privacy.md and
draws docs/epsilon.png, from the rows in results/epsilon.

The 371 training roles of Shakespeare, all in each of 30 rounds, with a decoder of 6,704 parameters
from scratch: noise grows with the root of the number of parameters and sinks with the number of
clients, so that few clients can only train few parameters. Noise is calibrated to epsilon at
delta 1e-4 for 30 releases; the unit is the client, no sampling is claimed. Rates and clip are the
same for all and were chosen on one run with noise; clip alone is the run without noise to compare
with. Loss on unseen clients, which no guarantee has to cover.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fedjax_llm import DecoderConfig, RunConfig, Study
from fedjax_llm.privacy import calibrate_noise_multiplier
from fedjax_llm.runs.results import read_rows

ROWS = Path(__file__).parent / "results/epsilon/results.jsonl"
PICTURE = Path(__file__).parents[1] / "docs/epsilon.png"
ROUNDS, CLIENTS, DELTA, CLIP = 30, 371, 1e-4, 0.5

BASE = RunConfig(
    rounds=ROUNDS,
    clients=CLIENTS,
    local_steps=2,
    batch=4,
    seq=32,
    client_axis="scan()",
    client_optimizer="adam(0.02)",
    server_optimizer="sgd(1.0, momentum=0.9)",
    evaluate_rows=4000,
    decoder=DecoderConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    ),
)
EPSILONS = (8, 2, 1)
UPLINKS = ("identity()", "eden(bits=1)", "preconditioned(trellis_fixed(bits=0.1))")


def noise(epsilon: float, relation: str = "zero_out") -> float:
    """The noise multiplier, rounded up to three digits."""
    exact = calibrate_noise_multiplier(epsilon, ROUNDS, delta=DELTA, relation=relation)
    return float(np.ceil(exact * 1000) / 1000)


def private(rule: str, uplink: str = "identity()") -> RunConfig:
    """The run with a rule that adds noise."""
    secret = {"secret": "runs/epsilon.secret", "delta": DELTA}
    return replace(BASE, aggregate=rule, uplink=uplink, **secret)


configs = [
    replace(BASE, aggregate=rule, uplink=uplink)
    for rule in (None, f"norm_bound(limit={CLIP})")
    for uplink in UPLINKS
]
configs += [
    private(f"dp_fed_avg(clip={CLIP}, noise_multiplier={noise(epsilon)})", uplink)
    for epsilon in EPSILONS
    for uplink in UPLINKS
]
configs += [
    private(
        f"distributed_dp(clip={CLIP}, noise_multiplier={noise(epsilon)}, clients={CLIENTS}, "
        "bits=16)"
    )
    for epsilon in (8, 2)
]
configs += [
    private(f"local_dp(clip={CLIP}, noise_multiplier={noise(8, 'replace_one')})", "eden(bits=1)")
]
configs += [
    private(f"dp_fed_avg(clip={CLIP}, noise_multiplier={noise(epsilon)}, groups='attention, mlp')")
    for epsilon in (8, 2)
]
study = Study(configs, seeds=(0, 1, 2))

LOSS, HIGHEST = "unseen_nats_per_byte", 4.2
"""The loss that is shown, and the largest one that the picture has room for."""


def rows() -> dict[tuple[str, float, str], list[dict]]:
    """The rows of each rule, epsilon and uplink; epsilon is infinite without noise."""
    found: dict[tuple[str, float, str], list[dict]] = {}
    for row in read_rows(ROWS):
        config = row["config"]
        text = config["aggregate"] or "mean"
        rule = text.split("(")[0] + (" by groups" if "groups=" in text else "")
        epsilon = row["privacy"]["epsilon"] if row.get("privacy") else np.inf
        found.setdefault((rule, round(epsilon, 2), config["uplink"]), []).append(row)
    return found


def table() -> list[str]:
    """A line of Markdown for each rule, epsilon and uplink."""
    lines = []
    for (rule, epsilon, uplink), each in rows().items():
        losses = [row[LOSS] for row in each]
        cells = [
            f"`{rule}`",
            f"{epsilon:g}" if np.isfinite(epsilon) else "none",
            "its own, 16 bits" if rule == "distributed_dp" else f"`{uplink}`",
            f"{each[0]['uplink_bytes'] / 2**20:.3g}",
            f"{np.mean(losses):.3f}",
        ]
        if len(losses) > 1:
            cells.append(", ".join(f"{loss:.3f}" for loss in losses))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw() -> None:
    """Draw loss against epsilon, a line for each uplink."""
    import matplotlib.pyplot as plt  # noqa: PLC0415 - the table needs no matplotlib

    found = rows()
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for uplink in UPLINKS:
        private = {e: r for (rule, e, u), r in found.items() if (rule, u) == ("dp_fed_avg", uplink)}
        bits = next(iter(private.values()))[0]["uplink_bits_per_parameter"]
        means = [np.mean([row[LOSS] for row in private[e]]) for e in sorted(private)]
        clipped = np.mean([row[LOSS] for row in found["norm_bound", np.inf, uplink]])
        (line,) = axis.plot(sorted(private), means, "o-", label=f"{uplink}, {bits:.3g} bits")
        axis.plot([16], [clipped], "s", color=line.get_color())
        for epsilon, loss in zip(sorted(private), means, strict=True):
            if loss > HIGHEST:
                axis.annotate(f"{loss:.1f}", (epsilon, HIGHEST), color=line.get_color(), va="top")
    summed = {e: r for (rule, e, _), r in found.items() if rule == "distributed_dp"}
    means = [np.mean([row[LOSS] for row in summed[e]]) for e in sorted(summed)]
    axis.plot(sorted(summed), means, "x--", color="gray", label="distributed_dp, 16 bits")
    axis.set_ylim(top=HIGHEST)
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 8, 16], ["1", "2", "8", "clip\nalone"])
    axis.set_xlabel("epsilon of a client at delta 1e-4, after 30 rounds")
    axis.set_ylabel("nats per byte on unseen clients")
    axis.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    print("\n".join(table()))
    draw()
