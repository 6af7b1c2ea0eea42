"""Who needs the fewest bytes, if few clients take part in each round?

    fedjax-llm study experiments/headline_partial.py --out runs/headline
    python experiments/headline_partial.py

The first runs the study. The second draws the README's picture and prints the table of
docs/measurements.md, from the rows in results/headline_partial.

The default task: 412 roles of Shakespeare, 32 of them in each of 20 rounds, a decoder from scratch.
Each configuration has four candidates, which train on a fifth of the roles for 10 rounds, and the
better two for 20; the other roles are reported. Seed 0 for all, seeds 1 and 2 for those that were
near the front with it.
"""

from dataclasses import replace
from pathlib import Path

from fedjax_llm import RunConfig, Study, Tuning
from fedjax_llm.runs.results import read_rows
from fedjax_llm.studies.figure import draw

ROWS = Path(__file__).parent / "results/headline_partial/results.jsonl"
PICTURE = Path(__file__).parents[1] / "docs/frontier.png"

BASE = RunConfig(rounds=20, clients=32, client_axis="scan()", evaluate_every=5)
UPLINKS = [
    "identity()",
    "eden(bits=0.1)",
    "preconditioned(trellis_fixed(bits=0.1))",
    "preconditioned(trellis_fixed(bits=0.25))",
    "eden(bits=0.25)",
    "eden(bits=1)",
    "preconditioned(trellis_fixed(bits=0.05))",
    "error_feedback(top_k(fraction=0.01))",
    "error_feedback(sparse_ternary(fraction=0.01))",
    "adaptive(rate=0.25)",
    "error_feedback(power_sgd(rank=2))",
]
NEAR = [
    "identity()",
    "eden(bits=0.1)",
    "eden(bits=0.25)",
    *(f"preconditioned(trellis_fixed(bits={bits}))" for bits in (0.1, 0.05)),
]
"""Uplinks whose seeds 1 and 2 are run too."""

RATES = {
    "client_optimizer": ("adam(0.003)", "adam(0.005)"),
    "server_optimizer": (
        "sgd(1.0, momentum=0.5, nesterov=True)",
        "sgd(0.5, momentum=0.75, nesterov=True)",
    ),
}


first = [replace(BASE, uplink=uplink) for uplink in UPLINKS]
again = [replace(BASE, uplink=uplink, seed=seed) for uplink in NEAR for seed in (1, 2)]
study = Study(
    first + again,
    seeds=None,
    tune=Tuning(candidates=RATES, rounds=10),
    costs=("uplink", "both"),
    highest=2.5,
)


def table() -> list[str]:
    """A line of Markdown for each uplink, most bytes first."""
    by_uplink: dict[str, dict[int, dict]] = {}
    for row in read_rows(ROWS):
        by_uplink.setdefault(row["codec"], {})[row["seed"]] = row
    plain, loss = by_uplink["identity()"], "heldout_nats_per_byte"
    lines = []
    for uplink, rows in sorted(by_uplink.items(), key=lambda each: -each[1][0]["uplink_bytes"]):
        first, sent = rows[0], rows[0]["uplink_bytes"]
        above = [rows[seed][loss] - plain[seed][loss] for seed in sorted(rows)]
        told = len(above) > 1 and uplink != "identity()"
        cells = [
            f"`{uplink}`",
            f"{sent / 2**20:.3g}",
            f"{plain[0]['uplink_bytes'] / sent:.1f}",
            f"{first['uplink_bits_per_parameter']:.3f}",
            f"{first[loss]:.4f}",
            f"{sum(above) / len(above):+.4f}",
            ", ".join(f"{each:+.4f}" for each in above) if told else "",
            f"`{first['config']['client_optimizer']}`",
            f"`{first['config']['server_optimizer']}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    of_tuning = {"tuned_fields": list(RATES)}
    draw(
        [row | of_tuning for row in read_rows(ROWS) if row["seed"] == 0],
        PICTURE,
        highest=study.highest,
    )
    print("\n".join(table()))
