"""What does a trained model tell of who was in its training, and does compression hide it?

    python experiments/membership.py         an hour on one core
    python experiments/membership.py table

The first trains and audits, and appends rows to results/membership.jsonl, of settings that have
none there; the second prints the table of docs/privacy.md from them.

64 roles of Shakespeare with short texts, and 64 canaries, which are clients that have nothing but
"my number is" and nine random digits. A fair coin for each of the 128 says whether it takes part;
those that do take part in each of 30 rounds, with four steps of Adam on a decoder of 90,432
parameters that reads bytes. Whoever gets the last model then asks of each client whether it was
there. Eight seeds, each with its own coins, initial parameters and draws.

- *loss*, *Min-K%*: the client's mean loss, and its fifth of least likely bytes. Thresholds on one
  model, without a second.
- *LiRA*: the likelihood ratio of the loss over the models of the other seeds, half of which the
  client took part in. Such an attacker has the other clients' texts, or texts like them.
- *exposure*: bits by which a canary that took part is preferred to 1,023 others; 1.44 are chance,
  10 the most.
- *epsilon*: lower bound at 95 % from one run, by the coins of its canaries that were guessed right.

A rule with noise is private with the epsilon of its row; that an attack fails proves nothing.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.random as jr
import numpy as np
import optax
from fedjax_compression import codec
from fedjax_compression.text import build, parse

from fedjax_llm import Batching, DecoderConfig, Round, Task, fed_avg, language_model, scan, simulate
from fedjax_llm.aggregators import Aggregator
from fedjax_llm.aggregators.registry import AGGREGATORS
from fedjax_llm.audits import (
    auc,
    audit_one_run,
    exposure,
    lira_scores,
    logit_confidence,
    min_k_scores,
    tpr_at_fpr,
)
from fedjax_llm.data import Corpus, byte_corpus, shakespeare
from fedjax_llm.evaluation import by_client
from fedjax_llm.privacy import Account, Secret
from fedjax_llm.runs.results import append_row, read_rows

OUT = Path(__file__).parent / "results/membership.jsonl"
ROUNDS, SEEDS, EACH, SEQ = 30, 8, 64, 64
CLIP, DELTA = 1.0, 1e-4
LIKE = 1024
"""How many strings of digits a canary is one of, for its exposure."""

DECODER = DecoderConfig(
    hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2
)


class Setting(NamedTuple):
    """A codec on the uplink, a rule of the server, and the text of each."""

    uplink: str
    rule: str = "mean()"

    def aggregate(self) -> Aggregator:
        """The rule."""
        rule: Aggregator = build(parse(self.rule), AGGREGATORS)
        return rule

    def named(self) -> dict[str, str]:
        """The fields of a row that tell settings apart."""
        return {"uplink": self.uplink, "rule": self.rule}

    def epsilon(self) -> str:
        """Epsilon of a client after all rounds."""
        noise = dict(parse(self.rule).kwargs).get("noise_multiplier")
        return f"{Account(noise, delta=DELTA).epsilon(ROUNDS):.3g}" if noise else "none"


SETTINGS = [
    Setting("identity()"),
    Setting("blockwise_int(bits=8)"),
    Setting("eden(bits=1)"),
    Setting("eden(bits=0.1)"),
    Setting("preconditioned(trellis_fixed(bits=0.1))"),
    Setting("error_feedback(top_k(fraction=0.01))"),
    Setting("sign()"),
    Setting("identity()", f"norm_bound(limit={CLIP})"),
]
SETTINGS += [
    Setting("identity()", f"dp_fed_avg(clip={CLIP}, noise_multiplier={noise}, divisor={EACH})")
    for noise in (0.1, 0.3, 1.0)
]


def texts() -> tuple[dict[str, str], dict[str, str]]:
    """The texts of the 128 clients, roles before canaries, and strings like the canaries."""
    found = shakespeare(at_least=2000)
    roles = sorted(found, key=lambda name: (len(found[name]), name))[:EACH]
    numbers = np.random.default_rng(0).choice(10**9, EACH + LIKE - 1, replace=False)
    strings = [f"my number is {number:09d}" for number in numbers]
    canaries = {f"~canary {i:02d}": text for i, text in enumerate(strings[:EACH])}
    clients = {name: found[name] for name in sorted(roles)} | canaries
    return clients, {f"{i:04d}": text for i, text in enumerate(strings[EACH:])}


def coins(seed: int) -> np.ndarray:
    """Whether each client takes part."""
    return np.random.default_rng([seed, 1]).integers(0, 2, 2 * EACH).astype(bool)


def trained(setting: Setting, seed: int, clients: dict[str, str]) -> tuple[Task, Round]:
    """Train on the clients whose coin says so; the task, and the last round."""
    task, rule = language_model(DECODER, key=jr.key(seed)), setting.aggregate()
    method = fed_avg(
        task.loss,
        task.params,
        client_optimizer=optax.adam(3e-3),
        uplink=codec(setting.uplink),
        aggregate=rule,
    )
    there = {name: clients[name] for name, coin in zip(clients, coins(seed), strict=True) if coin}
    rounds = simulate(
        method,
        task.params,
        task.frozen,
        byte_corpus(there),
        Batching(seq=SEQ, batch=4, steps=4),
        rounds=ROUNDS,
        clients=len(there),
        seed=seed,
        client_axis=scan(),
        secret=Secret(seed.to_bytes(32, "big")) if rule.noised else None,
    )
    *_, last = rounds
    return task, last


def log_probs(task: Task, params, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability of each byte given those before it in its window, and the mask."""
    rows = corpus.rows(range(len(corpus.names)), seq=SEQ)
    batch = rows.take(np.arange(rows.counts.sum()), np.ones(rows.counts.sum(), bool))
    logits = jax.jit(lambda params, tokens: task.model(params, task.frozen)(tokens))
    nats = optax.softmax_cross_entropy_with_integer_labels(
        logits(params, batch.tokens.astype(int)), batch.targets.astype(int)
    )
    owner = np.repeat(np.arange(len(rows.counts)), rows.counts)
    place = np.concatenate([np.arange(count) for count in rows.counts])
    found = np.zeros((len(rows.counts), rows.counts.max(), SEQ))
    mask = np.zeros(found.shape, bool)
    found[owner, place], mask[owner, place] = -nats, batch.mask
    return found.reshape(len(found), -1), mask.reshape(len(mask), -1)


def audited(found: np.ndarray, mask: np.ndarray, inside: np.ndarray, strings: np.ndarray) -> dict:
    """What one model tells by itself: of roles by two scores, and of canaries."""
    roles, canaries = slice(0, EACH), slice(EACH, None)
    row = {}
    for name, fraction in (("loss", 1), ("min_k", 0.2)):
        scores = min_k_scores(found[roles], mask[roles], fraction=fraction)
        row[f"{name}_auc"] = auc(scores[inside[roles]], scores[~inside[roles]])
    losses, coins = -(found * mask).sum(axis=1)[canaries], inside[canaries]
    bits = np.array([exposure(float(loss), strings) for loss in losses])
    guesses = [16, 32, EACH]
    lower = audit_one_run(-losses, coins, guesses=guesses, delta=DELTA)
    return row | {
        "canary_auc": auc(-losses[coins], -losses[~coins]),
        "exposure": float(bits[coins].mean()),
        "exposure_outside": float(bits[~coins].mean()),
        "lower_epsilon": lower.epsilon,
    }


def with_lira(rows: list[dict], losses: np.ndarray, inside: np.ndarray) -> list[dict]:
    """Add what the models of the other seeds tell of each role."""
    confidences = logit_confidence(losses[:, :EACH])
    for seed, row in enumerate(rows):
        others = np.arange(SEEDS) != seed
        coins = inside[:, :EACH]
        known = coins[others].any(axis=0) & ~coins[others].all(axis=0)
        scores = lira_scores(
            confidences[seed, known],
            confidences[others][:, known],
            coins[others][:, known],
            pooled_variance=True,
        )
        there = coins[seed, known]
        row["lira_auc"] = auc(scores[there], scores[~there])
        row["lira_tpr"] = tpr_at_fpr(scores[there], scores[~there], fpr=0.05)
    return rows


def rows_of(setting: Setting) -> list[dict]:
    """The rows of a setting that are there."""
    return [row for row in read_rows(OUT) if setting.named().items() <= row.items()]


def main() -> None:
    """Train the models of settings without rows, audit them, and write a row for each."""
    clients, like = texts()
    everybody, strings = byte_corpus(clients), byte_corpus(like)
    inside = np.stack([coins(seed) for seed in range(SEEDS)])
    for setting in SETTINGS:
        if rows_of(setting):
            continue
        rows, losses = [], []
        for seed in range(SEEDS):
            task, last = trained(setting, seed, clients)
            params = last.state.params
            found, mask = log_probs(task, params, everybody)
            losses.append(-(found * mask).sum(axis=1) / mask.sum(axis=1))
            likes = by_client(task.nats, params, task.frozen, strings, seq=SEQ).totals
            row = setting.named() | {"seed": seed, "clients": int(inside[seed].sum())}
            row |= audited(found, mask, inside[seed], likes)
            for name, among in (("inside", inside[seed]), ("outside", ~inside[seed])):
                row[f"loss_{name}"] = float(losses[-1][:EACH][among[:EACH]].mean())
            rows.append(row)
        for row in with_lira(rows, np.stack(losses), inside):
            append_row(OUT, row)
        print(setting.uplink, setting.rule, {k: v for k, v in row.items() if "_" in k}, flush=True)


def table() -> list[str]:
    """A line of Markdown for each setting: means over seeds."""
    lines = []
    for setting in SETTINGS:
        own = rows_of(setting)
        mean = {key: np.mean([row[key] for row in own]) for key in own[0] if "_" in key}
        cells = [f"`{setting.uplink}`", f"`{setting.rule}`", setting.epsilon()]
        cells += [f"{mean[f'loss_{name}']:.2f}" for name in ("inside", "outside")]
        cells += [f"{mean[key]:.2f}" for key in ("loss_auc", "min_k_auc", "lira_auc", "lira_tpr")]
        cells += [f"{np.mean([row['exposure'] for row in own]):.1f}"]
        cells += [f"{mean[key]:.2f}" for key in ("canary_auc", "lower_epsilon")]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    if sys.argv[1:] == ["table"]:
        print("\n".join(table()))
    else:
        main()
