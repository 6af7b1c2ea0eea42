"""Who needs the fewest bytes to fine-tune a pretrained model?

    fedjax-llm study experiments/headline_finetune.py --out runs/finetune
    python experiments/headline_tables.py

The first runs the study. The second prints the tables of docs/measurements.md, from the rows in
results.

SmolLM2-135M-Instruct on the chats of 128 people of chitchat, eight of them in each of twelve rounds
of two steps, LoRA of rank 8 on all products unless the method has another adapter; Nesterov's
momentum of .5 at the server. Each configuration has two candidates, which train for all of twelve
rounds on a fifth of all people, whom no reported run reads. Seed 0 for all, seeds 1 and 2 for those
near the front.
"""

from dataclasses import replace

from fedjax_llm import RunConfig, Study, Tuning

BASE = RunConfig(
    model="smollm2",
    data="chitchat()",
    population=128,
    unseen="share(0.0)",
    rounds=12,
    clients=8,
    local_steps=2,
    batch=2,
    seq=64,
    adapter="lora(rank=8)",
    evaluate_rows=128,
    client_axis="scan()",
)
OURS, EDEN = "preconditioned(trellis_fixed(bits={}))", "eden(bits={})"
NEAR = ["identity()", *(codec.format(bits) for bits in (0.1, 0.25) for codec in (OURS, EDEN))]
"""Uplinks whose seeds 1 and 2 are run too."""

UPLINKS = [
    *NEAR,
    *(codec.format(bits) for bits in (0.01, 0.03) for codec in (OURS, EDEN)),
    EDEN.format(1),
    "error_feedback(top_k(fraction=0.01))",
    "blockwise_int(bits=8)",
    "adaptive(rate=0.25)",
]
METHODS = [
    {"algorithm": "ffa_lora()"},
    {"algorithm": "ffa_lora()", "uplink": OURS.format(0.1)},
    {"algorithm": "flasc(up=0.25, down=0.25)"},
    {"algorithm": "sparse_loco()"},
    {"algorithm": "fed_sb()"},
]
RATES = {
    "ffa_lora": (0.0015, 0.003),  # half of the matrices stand still
    "fed_sb": (0.003, 0.01),  # only a small square of each trains
    **dict.fromkeys(("flasc", "sparse_loco", "error_feedback", "adaptive"), (0.0007, 0.0015)),
}
"""Rates of Adam by the name of the method or of the uplink, where they are not those of most."""


def candidates(config):
    """Two rates of Adam."""
    names = (text.split("(")[0] for text in (config.algorithm, config.uplink))
    rates = next((RATES[name] for name in names if name in RATES), (0.00035, 0.0007))
    return [replace(config, client_optimizer=f"adam({rate})") for rate in rates]


first = [replace(BASE, uplink=uplink) for uplink in UPLINKS]
first += [replace(BASE, **fields) for fields in METHODS]
again = [replace(BASE, uplink=uplink, seed=seed) for uplink in NEAR for seed in (1, 2)]
again += [replace(BASE, **METHODS[1], seed=seed) for seed in (1, 2)]
study = Study(
    first + again,
    seeds=None,
    tune=Tuning(candidates=candidates, rounds=12, share=0.2),
    costs=("uplink", "both"),
)
