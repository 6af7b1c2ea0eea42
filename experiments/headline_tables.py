"""The tables of the three headline studies, and the README's picture: docs/measurements.md.

    python experiments/headline_tables.py

Everything is made from the rows in results.
"""

from itertools import pairwise
from pathlib import Path

from fedjax_llm.runs.results import read_rows
from fedjax_llm.studies.figure import draw

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs/frontier.png"
STUDIES = {
    "headline_partial": ("headline_partial",),
    "headline_everybody": ("headline_everybody", "headline_everybody_far"),
    "headline_finetune": ("headline_finetune", "headline_finetune_far"),
}
"""The folders of each table's rows."""
TUNED = ("client_optimizer", "server_optimizer")


def rows_of(study: str) -> list[dict]:
    """The rows of a study, with those of its rivals far from the front."""
    return [row for part in STUDIES[study] for row in read_rows(RESULTS / part / "results.jsonl")]


def name_of(row: dict) -> str:
    """The method and codec, and the optimizers that are not those of most rows."""
    config = row["config"]
    parts = [config["algorithm"]] if config["algorithm"] != "fed_avg()" else []
    if not parts or row["codec"] != "identity()":
        parts.append(row["codec"])
    names = [f"`{', '.join(parts)}`"]
    server = config["server_optimizer"] or ""
    if (config["client_optimizer"] or "").startswith("muon"):
        names.append("Muon")
    if server.startswith("fed_adam"):
        names.append("FedAdam")
    elif server.startswith("sgd") and "momentum" not in server:
        names.append("no momentum")
    return ", ".join(names)


def table(study: str) -> list[str]:
    """A line of Markdown for each configuration, most bytes first."""
    found: dict[str, dict[int, dict]] = {}
    for row in rows_of(study):
        found.setdefault(name_of(row), {})[row["seed"]] = row
    plain = found["`identity()`"]
    loss = f"heldout_nats_per_{plain[0].get('unit', 'byte')}"
    lines = []
    for name, rows in sorted(found.items(), key=lambda each: -each[1][0]["uplink_bytes"]):
        first, sent = rows[0], rows[0]["uplink_bytes"]
        above = [rows[seed][loss] - plain[seed][loss] for seed in sorted(rows)]
        told = len(above) > 1 and rows is not plain
        rates = [first["config"][field] for field in TUNED]
        cells = [
            name,
            f"{sent / 2**20:.3g}",
            f"{plain[0]['uplink_bytes'] / sent:.1f}",
            f"{first['uplink_bits_per_parameter']:.3f}",
            f"{first[loss]:.4f}",
            f"{sum(above) / len(above):+.4f}",
            ", ".join(f"{each:+.4f}" for each in above) if told else "",
            ", ".join(f"`{rate}`" for rate in rates if rate),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def at_equal_loss(study: str, rival: str = "eden") -> list[str]:
    """How many times as many bytes the rival needs for the loss of each of our bit rates.

    A line has our bits, how far we end above uncompressed, and the rival's bytes over ours.

    Bytes are interpolated, in their logarithm, between the two rates of the rival whose mean loss
    above uncompressed is on either side.
    """
    above: dict[str, dict[float, tuple[float, int]]] = {rival: {}, "preconditioned": {}}
    rows = [row for row in rows_of(study) if not name_of(row).endswith(("Muon", "momentum"))]
    loss = f"heldout_nats_per_{rows[0].get('unit', 'byte')}"
    plain = {row["seed"]: row[loss] for row in rows if name_of(row) == "`identity()`"}
    for codec in {row["codec"] for row in rows if name_of(row) == f"`{row['codec']}`"}:
        if (method := codec.split("(")[0]) in above:
            mine = [row for row in rows if name_of(row) == f"`{codec}`"]
            mean = sum(row[loss] - plain[row["seed"]] for row in mine) / len(mine)
            above[method][mine[0]["uplink_bits_per_parameter"]] = mean, mine[0]["uplink_bytes"]
    theirs = sorted(above[rival].values(), key=lambda each: each[1])
    lines = []
    for bits, (mean, sent) in sorted(above["preconditioned"].items()):
        for (high, few), (low, many) in pairwise(theirs):
            if low <= mean <= high:
                needed = few * (many / few) ** ((high - mean) / (high - low))
                lines.append(f"{bits:.3f} bits, {mean:+.4f}: {needed / sent:.2f} times as many")
    return lines


if __name__ == "__main__":
    of_tuning = {"tuned_fields": list(TUNED)}
    drawn = [
        row | of_tuning
        for row in rows_of("headline_partial")
        if row["seed"] == 0 and "Muon" not in name_of(row) and "stages" not in row["codec"]
    ]
    draw(drawn, PICTURE, highest=2.5)
    for study in STUDIES:
        print(study, *table(study), *at_equal_loss(study), "", sep="\n")
