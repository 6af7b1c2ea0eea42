"""What methods without a backward pass reach in the fine-tuning of headline_finetune.py.

    fedjax-llm study experiments/headline_finetune_far.py --out runs/finetune_far
    python experiments/headline_tables.py

The first runs the study. The second prints the tables of docs/measurements.md, from the rows in
results.

The task of headline_finetune.py. A step of these methods costs a few forward passes and sends a few
numbers. Each configuration has four rates, which train for all of twelve rounds. Seed 0 alone.
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
METHODS = ["decomfl(draws=1)", "fed_kseed(seeds=128)", "spry(draws=1)"]
RATES = (0.0003, 0.003, 0.03, 0.3)


def candidates(config):
    """Four rates: of the server for spry, whose clients send derivatives, else of the clients."""
    if config.algorithm.startswith("spry"):
        return [replace(config, server_optimizer=f"fed_yogi({rate})") for rate in RATES]
    return [replace(config, client_optimizer=f"sgd({rate})") for rate in RATES]


first = [replace(BASE, algorithm=method) for method in METHODS]
study = Study(
    first,
    seeds=None,
    tune=Tuning(candidates=candidates, rounds=12, share=0.2, halve=False),
    costs=("uplink", "both"),
)
