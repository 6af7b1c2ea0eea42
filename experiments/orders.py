"""Do orders of methods that independent tables agree on also show on a small decoder?

    python experiments/orders.py        about twenty minutes on one core

Four orders: FFA-LoRA is last among LoRA methods without privacy noise; FedEx-LoRA is at least as
good as FedIT; zeroth-order methods need many more rounds and far fewer bytes; and error feedback
repairs top-k and few-bit rounding where these are worse than uncompressed rounds.

A byte-level decoder of 107,328 parameters is first trained on Shakespeare's plays without their
eight longest roles. These roles are then the clients, all of them in each round, so that local
steps drift apart. LoRA has rank 4 on every linear layer. Each method's learning rate is the best of
two or three on a separate seed; reported is the mean over three other seeds of nats per byte on the
last tenth of each role. Rows go to results/orders.jsonl; settings whose row is there are not run
again.

Result: all four show in each of the three seeds, except error feedback at one per cent. Starting
from 2.4181 nats per byte, after ten rounds: FedEx-LoRA 2.3451, FedIT 2.3502, FFA-LoRA 2.3614 (its
best rate is the highest that was tried), with 1, 1 and half the bytes up, and FedEx with eight
times FedIT's bytes down. DeComFL on the same LoRA: 2.4108 after sixty rounds and 21 kB up in all;
FedIT passes that within its first two rounds, which take 592 kB. All parameters: uncompressed
2.3144; four bits with one scale per tensor 2.3144, which leaves nothing to repair; two bits 2.3265,
with error feedback 2.3153; top-k at ten per cent 2.3989, with error feedback 2.3299; at 1 per cent
2.4287, worse than the start, and 2.4266: ten rounds send a tenth of the entries once.
"""

import importlib.metadata
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import optax
from fedjax_compression import codec
from rich.console import Console
from rich.table import Table

from fedjax_llm import DecoderConfig, fed_avg, language_model, lora
from fedjax_llm.algorithms import decomfl, fedex_lora, ffa_lora
from fedjax_llm.algorithms.shared.base_changes import base_of
from fedjax_llm.data import Batching, HoldOut, byte_corpus, hold_out, shakespeare
from fedjax_llm.evaluation import by_client
from fedjax_llm.ledger import total_bytes
from fedjax_llm.runs.results import append_row, read_rows
from fedjax_llm.simulation import simulate

RESULTS = Path(__file__).parent / "results" / "orders.jsonl"
CLIENTS, STEPS, RANK = 8, 8, 4
BATCHING = Batching(seq=64, batch=4, steps=STEPS)
TUNING, SEEDS = 3, (0, 1, 2)
FEW, SOME = "top_k(fraction=0.01)", "top_k(fraction=0.1)"
INT4, INT2 = (f"blockwise_int(bits={bits}, block=65536)" for bits in (4, 2))
"""Quantisers with one scale per tensor."""


@dataclass(frozen=True)
class Setting:
    """One run."""

    method: str
    rate: float
    rounds: int
    seed: int = TUNING
    uplink: str = "identity()"

    @property
    def adapted(self) -> bool:
        """Whether LoRA is trained instead of all parameters."""
        return self.method != "fed_avg"


ROUNDS, POINTS = 10, 5
METHODS = {
    **{
        name: [Setting(name, rate, ROUNDS) for rate in (0.003, 0.01, 0.03)]
        for name in ("fed_it", "ffa_lora", "fedex_lora")
    },
    "decomfl": [Setting("decomfl", rate, 60) for rate in (0.03, 0.1, 0.3)],
    **{
        uplink: [Setting("fed_avg", rate, ROUNDS, uplink=uplink) for rate in (0.003, 0.01)]
        for uplink in (
            *("identity()", INT4, INT2, f"error_feedback({INT2})"),
            *(SOME, f"error_feedback({SOME})"),
            *(FEW, f"error_feedback({FEW})"),
        )
    },
}
"""Settings to choose from, by name."""


def build(setting: Setting, task: Any) -> Any:
    adam, like = optax.adam(setting.rate), task.params
    match setting.method:
        case "ffa_lora":
            return ffa_lora(task.loss, like, client_optimizer=adam)
        case "fedex_lora":
            return fedex_lora(task.loss, like, client_optimizer=adam, scale=2.0, clients=CLIENTS)
        case "decomfl":
            sgd = optax.sgd(setting.rate)
            return decomfl(task.loss, like, client_optimizer=sgd, steps=STEPS, window=1)
    uplink = codec(setting.uplink)
    return fed_avg(task.loss, like, client_optimizer=adam, uplink=uplink)


@cache
def roles() -> tuple[list[str], dict[str, str]]:
    """The eight longest roles, and the text of all roles."""
    texts = shakespeare()
    return sorted(texts, key=lambda role: -len(texts[role]))[:CLIENTS], texts


@cache
def clients() -> HoldOut:
    names, texts = roles()
    return hold_out(byte_corpus({name: texts[name] for name in names}), seed=0, clients=0.0)


@cache
def pretrained() -> Any:
    """Parameters after ten rounds of FedAvg on all other roles."""
    names, texts = roles()
    others = byte_corpus({name: text for name, text in texts.items() if name not in names})
    task = language_model(DecoderConfig(), key=jr.key(0))
    algorithm = fed_avg(task.loss, task.params, client_optimizer=optax.adam(0.006))
    federation = (algorithm, task.params, task.frozen, others, BATCHING)
    *_, last = simulate(*federation, rounds=10, clients=32, seed=0)
    return last.state.params


def run(setting: Setting) -> dict[str, Any]:
    """The row of a setting: nats per byte by round, from the start on, and all bytes."""
    adapter = lora(rank=RANK) if setting.adapted else None
    task = language_model(
        DecoderConfig(), key=jr.key(setting.seed), adapter=adapter, params=pretrained()
    )
    algorithm, split = build(setting, task), clients()

    def nats(params: Any, frozen: Any) -> float:
        found = by_client(task.nats, params, frozen, split.heldout, seq=BATCHING.seq)
        return float(found.totals.sum() / found.counts.sum())

    federation = (algorithm, task.params, task.frozen, split.train, BATCHING)
    curve, up, down = [nats(task.params, task.frozen)], 0, 0
    every = setting.rounds // POINTS
    for r in simulate(*federation, rounds=setting.rounds, clients=CLIENTS, seed=setting.seed):
        up, down = (
            so_far + total_bytes(r.messages, way) for so_far, way in ((up, "up"), (down, "down"))
        )
        if r.round % every == 0:
            curve.append(nats(r.state.params, base_of(r.state, task.frozen)))
    return {
        **asdict(setting),
        "nats": [round(value, 5) for value in curve],
        "every": every,
        "uplink_bytes": up,
        "downlink_bytes": down,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "optax")},
        "device": str(jax.devices()[0].device_kind),
    }


def rows() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """For each method the rows of three seeds, at the rate that was best on another seed."""
    known = {_key(row): row for row in read_rows(RESULTS)}

    def of(setting: Setting) -> dict[str, Any]:
        key = _key(asdict(setting))
        if key not in known:
            known[key] = run(setting)
            RESULTS.parent.mkdir(exist_ok=True)
            append_row(RESULTS, known[key])
            print(key, known[key]["nats"][-1], flush=True)
        return known[key]

    for name, settings in METHODS.items():
        best = min(settings, key=lambda setting: of(setting)["nats"][-1])
        yield name, [of(replace(best, seed=seed)) for seed in SEEDS]


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row[name] for name in asdict(Setting("", 0.0, 0))])


def main() -> None:
    table = Table("method", "rate", "rounds", "nats per byte", "of the seeds", "bytes up", "down")
    for name, found in rows():
        ends = [row["nats"][-1] for row in found]
        table.add_row(
            name,
            f"{found[0]['rate']}",
            f"{found[0]['rounds']}",
            f"{found[0]['nats'][0]:.4f} to {statistics.mean(ends):.4f}",
            " ".join(f"{end:.4f}" for end in ends),
            *(
                f"{statistics.mean(row[way] for row in found):,.0f}"
                for way in ("uplink_bytes", "downlink_bytes")
            ),
        )
    console = Console()
    console.width = max(console.width, 140)
    console.print(table)


if __name__ == "__main__":
    main()
